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
    "opentelemetry": "pipeline/traces/otlp.py",
}
TRANSPORTS = {
    "memory": ("memory",),
    "redis": ("redis_", "rq_"),
    "amqp": ("amqp",),
    "stomp": ("stomp_",),
}
"""How the names of a transport's modules begin."""
SHARED = {"__init__", "port", "address", "inbox", "publication", "rabbit_management"}
"""What transports may have in common: the port, and pieces that know none of them."""
LONGEST_TRANSPORT_MODULE = 300
"""Lines."""


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


def owners(module: str) -> set[str]:
    """The transports that a module of `pipeline/transport` belongs to."""
    return {name for name, beginnings in TRANSPORTS.items() if module.startswith(beginnings)}


def transport_modules_in(path: Path) -> set[str]:
    """The modules of `pipeline/transport` that a file imports, whether it names them or something in them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    here = {other.stem for other in modules("pipeline/transport")}
    return {name.split(".")[2] for name in found if name.startswith("pipeline.transport.")} & here


def test_every_module_of_the_transports_belongs_to_one_or_is_shared() -> None:
    unclear = [
        path.stem for path in modules("pipeline/transport") if len(owners(path.stem)) != (path.stem not in SHARED)
    ]
    assert unclear == []


@pytest.mark.parametrize("path", modules("pipeline/transport"), ids=lambda path: path.stem)
def test_no_transport_module_imports_another_transport(path: Path) -> None:
    foreign = {name for name in transport_modules_in(path) if name not in SHARED and owners(name) != owners(path.stem)}
    assert foreign == set()


def test_nobody_but_its_entry_point_chooses_a_transport() -> None:
    outside = [path for path in modules(*OURS) if path.parent.name != "transport"]
    chosen = {(str(path.relative_to(ROOT)), name) for path in outside for name in transport_modules_in(path) - SHARED}
    # What a stock RQ worker calls asks for the job that RQ is at.
    assert chosen == {("pipeline/rq_round.py", "rq_current")}


@pytest.mark.parametrize("path", modules("pipeline/transport"), ids=lambda path: path.stem)
def test_a_transport_module_tells_one_story(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_TRANSPORT_MODULE


def test_the_import_reader_sees_every_form() -> None:
    source = "import a.b, c\nfrom d.e import f\ndef g():\n    from . import h\n    import i as j\n"
    assert list(names_in(source)) == ["a.b", "c", "d.e", ".", "i"]
