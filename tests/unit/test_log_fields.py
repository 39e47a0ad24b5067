"""What code may say in a line of its log: the table of fields is held to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from pipeline.log_fields import ECS, LABELS, NAMED

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "executors", "triggers", "consumers")
RECKONED = {"duration", "trace", "transaction", "exc_info"}
LEVELS = {"debug", "info", "warning", "error", "exception", "tell"}


def said() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of a logger: the file, the event, the call."""
    for file, tree in _trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _is_said(node.func):
                events = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                yield file, str(events[0]) if events else "", node


def test_every_field_that_is_said_has_a_place_in_the_table() -> None:
    known = {*LABELS, *NAMED, *RECKONED}
    found = {
        (file, keyword.arg)
        for file, _, call in said()
        for keyword in call.keywords
        if keyword.arg and keyword.arg not in known
    }
    assert found == set()


def test_no_label_is_in_the_table_that_nobody_says() -> None:
    assert set(LABELS) - set(_words()) == set()


def test_the_page_about_logs_shows_every_field_and_no_other() -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs/how-to/logs.md").read_text().splitlines() if line[:3] == "| `"]
    shown = {name for row in rows for name in re.findall(r"`([^`]+)`", row)} - {"error", "warning", "info", "debug"}
    assert shown == {*ECS, *LABELS}


def test_events_are_names() -> None:
    assert [(file, event) for file, event, _ in said() if event and not event.isidentifier()] == []


def test_what_is_named_becomes_a_field_of_ecs() -> None:
    assert set(NAMED.values()) <= set(ECS)
    assert not set(NAMED) & set(LABELS)


def test_what_a_transaction_does_is_told_by_way_of_it() -> None:
    """It may be run again, or come to nothing: only what is committed is said and counted."""
    inside = [
        (file, function.name, node.lineno)
        for file, tree in _trees().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and "tx" in {argument.arg for argument in function.args.args}
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _says_at_once(node.func)
    ]
    assert inside == []


def _says_at_once(function: ast.Attribute) -> bool:
    logs = isinstance(function.value, ast.Name) and function.value.id == "_log"
    return logs or function.attr in {"inc", "observe"}


def _words() -> Iterator[str]:
    """Every name that an argument has, and every text: some lines are put together before they are said."""
    for node in (node for tree in _trees().values() for node in ast.walk(tree)):
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def _trees() -> Mapping[str, ast.Module]:
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files if path.name != "log_fields.py"}


def _is_said(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return False
    return function.value.id in {"_log", "tx"} and function.attr in LEVELS
