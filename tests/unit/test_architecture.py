"""Imports go one way, and drivers stay where they belong (style.md, point 2)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "schemas": set[str](),
    "pipeline": {"schemas"},
    "executors": {"schemas", "pipeline"},
    "consumers": {"schemas", "pipeline", "executors"},
    "triggers": {"schemas", "pipeline"},
}
OURS = set(MAY_IMPORT)
DRIVERS = {
    "rq": "pipeline/transport/",
    "redis": "pipeline/transport/",
    "pika": "pipeline/transport/",
    "stomp": "pipeline/transport/",
    "sqlalchemy": "pipeline/store/",
    "alembic": "pipeline/store/",
}


def names_in(source: str) -> Iterator[str]:
    """The full name of every module that `source` imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The modules that a file imports."""
    return tuple(names_in(path.read_text()))


def modules(*packages: str) -> list[Path]:
    """Every source file of `packages`."""
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def offences(paths: list[Path], forbidden: set[str]) -> list[str]:
    """A line `file imports module` for each import of a forbidden package."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_only_those_below_it(package: str) -> None:
    paths = modules(package)
    assert paths, f"{package} has no modules: the test looks at nothing"
    assert offences(paths, (OURS | {"tests", "examples"}) - MAY_IMPORT[package] - {package}) == []


def test_no_import_is_relative() -> None:
    found = [path for path in modules(*OURS) for name in imports(path) if name.startswith(".")]
    assert found == []


def test_the_pilot_imports_the_standard_library_alone() -> None:
    paths = modules("pipeline/pilot")
    foreign = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names
        and name != "pipeline.pilot"
        and not name.startswith("pipeline.pilot.")
    ]
    assert paths
    assert foreign == []


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_is_imported_only_where_it_belongs(driver: str) -> None:
    outside = [path for path in modules(*OURS) if not str(path.relative_to(ROOT)).startswith(DRIVERS[driver])]
    assert offences(outside, {driver}) == []


def test_the_import_reader_sees_every_form() -> None:
    source = "import a.b, c\nfrom d.e import f\ndef g():\n    from . import h\n    import i as j\n"
    assert list(names_in(source)) == ["a.b", "c", "d.e", ".", "i"]
