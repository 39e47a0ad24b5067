"""The documentation as tests read it: pages, fenced blocks, and the comments in front of them.

`<!-- not run: REASON -->` before a console block keeps its commands from being run; `<!-- exit N: REASON -->` says with
which exit code they end, other than 0. A block whose first line is `# PATH` is a file that later commands read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = tuple(sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]))
_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>.*?) -->\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, without its indentation."""

    page: str
    language: str
    mark: str
    body: str

    @property
    def is_run(self) -> bool:
        """Whether tests run its commands."""
        return self.language == "console" and not self.mark.startswith("not run: ")

    @property
    def exit_code(self) -> int:
        """How its commands end."""
        found = re.match(r"exit (\d): ", self.mark)
        return int(found[1]) if found else 0

    @property
    def path(self) -> str | None:
        """The file that it is."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.body)
        return found[1] if found else None

    def commands(self) -> Iterator[str]:
        """What stands after each `$`."""
        return (line.removeprefix("$ ") for line in self.body.splitlines() if line.startswith("$ "))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in _FENCE.finditer(page.read_text()):
        lines = found["body"].splitlines(keepends=True)
        body = "".join(line.removeprefix(found["indent"]) for line in lines)
        yield Block(str(page.relative_to(ROOT)), found["language"], found["mark"] or "", body)
