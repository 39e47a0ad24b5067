"""Boolean expressions over tags: `cvmfs:lhcb & (os:el9 | os:ubuntu26) & ~diracx:site:X`.

`~` binds closest, then `&`, then `|`. Nothing here recurses, and what is too long or too deep is refused while it
is read: an expression comes from anybody, and is evaluated by everybody's matching.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

from schemas.names import LONGEST_NAME

TOO_LONG = 10_000
"""Characters from which an expression is refused."""
TOO_DEEP = 1_000
"""Nestings (parentheses and `~`) from which an expression is refused."""
_WORD = re.compile(r"\s*(?:([A-Za-z0-9][A-Za-z0-9._:-]*)|([&|~()])|(\S))", re.ASCII)
_BINDS = {"|": 1, "&": 2, "~": 3}
_OTHER = {"&": "|", "|": "&"}


@dataclass(frozen=True, slots=True)
class Clause:
    """One of the things that must all be true: its canonical text, and how to find out (operators after operands)."""

    text: str
    postfix: tuple[str, ...]

    def holds(self, tags: AbstractSet[str]) -> bool:
        """Whether it is true of these tags."""
        stack: list[bool] = []
        for word in self.postfix:
            if word == "~":
                stack[-1] = not stack[-1]
            elif word in _OTHER:
                right, left = stack.pop(), stack.pop()
                stack.append((left and right) if word == "&" else (left or right))
            else:
                stack.append(word in tags)
        return stack[0]


@dataclass(frozen=True, slots=True)
class TagExpression:
    """An expression as a conjunction: tags that must be there, tags that must not, and whatever is less simple.

    `canonical` is the same for expressions that differ in order, repetition, parentheses or where `~` is applied.
    """

    canonical: str
    all_of: frozenset[str]
    none_of: frozenset[str]
    clauses: tuple[Clause, ...]

    def holds(self, tags: AbstractSet[str]) -> bool:
        """Whether it is true of these tags."""
        return (
            self.all_of <= tags and self.none_of.isdisjoint(tags) and all(clause.holds(tags) for clause in self.clauses)
        )

    def reasons(self, tags: AbstractSet[str]) -> Iterator[str]:
        """What is wrong with these tags."""
        lacking = [*sorted(self.all_of - tags), *(clause.text for clause in self.clauses if not clause.holds(tags))]
        if lacking:
            only_group = len(lacking) == 1 and lacking[0].startswith("(")
            yield f"lacks {lacking[0][1:-1] if only_group else ' & '.join(lacking)}"
        refused = sorted(self.none_of & tags)
        if refused:
            yield f"has {', '.join(refused)}, which the job does not want"


@lru_cache(maxsize=10_000)
def parse(text: str) -> TagExpression:
    """Raises ValueError, which says what is wrong and where, for anything that is no expression."""
    if len(text) >= TOO_LONG:
        raise ValueError(f"it has {len(text)} characters; less than {TOO_LONG} are allowed")
    return _conjunction(_Meaning.of(_postfix(text)))


@lru_cache(maxsize=10_000)
def all_of(names: tuple[str, ...]) -> TagExpression:
    """The expression that is true where all of these tags are."""
    kept = frozenset(names)
    return TagExpression(" & ".join(sorted(kept)), kept, frozenset(), ())


def _postfix(text: str, too_deep: int = TOO_DEEP) -> tuple[str, ...]:
    """Operators after their operands, by Dijkstra's shunting yard."""
    out: list[str] = []
    waiting: list[str] = []
    deep, is_tag_due = 0, True
    for word, at in _words(text):
        opens, joins = word in "~(", word in "&|)"
        if is_tag_due == joins:
            raise ValueError(f"{'a tag' if joins else 'an operator'} is missing before {word[:40]!r} at character {at}")
        is_tag_due = opens or word in "&|"
        if opens:
            waiting.append(word)
            deep += 1
            if deep >= too_deep:
                raise ValueError(f"it is nested {too_deep} times or more; less is allowed")
        elif joins:
            deep -= _shift(waiting, out, _BINDS.get(word, 0))
            deep -= word == ")" and _closed(waiting, at)
            if word != ")":
                waiting.append(word)
        else:
            out.append(word)
    if is_tag_due:
        raise ValueError("it ends where a tag is missing" if out or waiting else "it is empty")
    _shift(waiting, out, 0)
    if waiting:
        raise ValueError("a parenthesis is not closed")
    return tuple(out)


def _closed(waiting: list[str], at: int) -> bool:
    if not waiting:
        raise ValueError(f"the parenthesis at character {at} closes nothing")
    waiting.pop()
    return True


def _shift(waiting: list[str], out: list[str], binds: int) -> int:
    """Apply the operators that bind at least so closely; how many `~` were among them."""
    negations = 0
    while waiting and waiting[-1] != "(" and _BINDS[waiting[-1]] >= binds:
        negations += waiting[-1] == "~"
        out.append(waiting.pop())
    return negations


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Tokens, and where they are, counted from 1."""
    for match in _WORD.finditer(text.rstrip()):
        name, operator, stray = match.groups()
        at = match.start(match.lastindex or 0) + 1
        if name is not None and len(name) > LONGEST_NAME:
            raise ValueError(f"the tag at character {at} has {len(name)} characters; {LONGEST_NAME} are allowed")
        if stray is not None:
            raise ValueError(f"{stray!r} at character {at} is neither a tag nor one of & | ~ ( )")
        yield name or operator, at


@dataclass(slots=True)
class _Meaning:
    """An expression with every `~` brought to its tags, and the same of its negation: `~` then only swaps them."""

    operator: str
    parts: set[str]
    negated: set[str]

    @classmethod
    def of(cls, postfix: Sequence[str]) -> _Meaning:
        stack: list[_Meaning] = []
        for word in postfix:
            if word == "~":
                stack[-1] = stack[-1].negation()
            elif word in _OTHER:
                right = stack.pop()
                stack[-1] = stack[-1].joined(right, word)
            else:
                stack.append(cls("&", {word}, {f"~{word}"}))
        return stack[0]

    def negation(self) -> _Meaning:
        return _Meaning(_OTHER[self.operator], self.negated, self.parts)

    def joined(self, other: _Meaning, operator: str) -> _Meaning:
        """The sets are changed in place: each belongs to one meaning, and a long chain is joined in one go."""
        mine, theirs = self.under(operator), other.under(operator)
        if mine.parts == theirs.parts:
            return self
        if len(theirs.parts) > len(mine.parts):
            mine, theirs = theirs, mine
        mine.parts |= theirs.parts
        mine.negated |= theirs.negated
        return mine

    def under(self, operator: str) -> _Meaning:
        """The same as a list of parts joined by this operator."""
        if self.operator == operator or len(self.parts) == 1:
            return _Meaning(operator, self.parts, self.negated)
        return _Meaning(operator, {_text(self.parts, self.operator)}, {_text(self.negated, operator)})


def _text(parts: AbstractSet[str], operator: str) -> str:
    """In parentheses, unless there is but one part."""
    joined = f" {operator} ".join(sorted(parts))
    return joined if len(parts) == 1 else f"({joined})"


def _conjunction(meaning: _Meaning) -> TagExpression:
    parts = meaning.under("&").parts
    simple = {part for part in parts if not part.startswith("(")}
    return TagExpression(
        canonical=" & ".join(sorted(parts)),
        all_of=frozenset(part for part in simple if not part.startswith("~")),
        none_of=frozenset(part[1:] for part in simple if part.startswith("~")),
        clauses=tuple(Clause(part, _postfix(part, TOO_LONG)) for part in sorted(parts - simple)),
    )
