"""`fits` once more, as plainly as can be: from what users write, trying every number of cores, on sets and tuples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Written = Mapping[str, Any]


def alternatives(wish: Written) -> list[dict[str, Any]]:
    """Each way in which the job may run, written out."""
    base = {name: value for name, value in wish.items() if name not in {"any_of", "labels"}}
    return [{**base, **entry} for entry in wish.get("any_of", ())] or [base]


def fitting(wish: Written, node: Written) -> int | None:
    """The first alternative that the whole node can run."""
    return next((at for at, one in enumerate(alternatives(wish)) if most_cores(one, node) is not None), None)


def most_cores(wish: Written, node: Written) -> int | None:
    """The largest number of cores with which the node can run it."""
    return max((cores for cores in range(1, node["cores"] + 1) if _runs(wish, node, cores)), default=None)


def _runs(wish: Written, node: Written, cores: int) -> bool:
    return (
        _within(cores, wish.get("cores", 1))
        and _memory(wish.get("memory", 1024), cores) <= node["memory"]
        and wish.get("disk", 1024) <= node["disk"]
        and wish.get("wall_time", 3600) <= node["wall_time"]
        and _is_work_done(wish, node, cores)
        and _is_site_right(wish, node)
        and _are_tags_right(wish.get("tags", ()), set(node.get("tags", ())))
        and _is_system_right(wish.get("system", {}), node.get("system", {}))
        and _is_processor_right(wish.get("architecture", {}), node.get("architecture", {}))
        and _are_gpus_right(wish.get("gpu"), node.get("gpu"))
        and (not wish.get("containers") or bool(set(wish["containers"]) & set(node.get("containers", ()))))
        and all(node.get("io", {}).get(word, -1.0) >= rate for word, rate in wish.get("io", {}).items())
    )


def _within(number: int, wish: Any) -> bool:
    if isinstance(wish, int):
        return number == wish
    return bool(wish.get("min", 1) <= number <= wish.get("max", number))


def _memory(wish: Any, cores: int) -> int:
    return wish if isinstance(wish, int) else wish.get("overhead", 0) + wish.get("per_core", 0) * cores


def _is_work_done(wish: Written, node: Written, cores: int) -> bool:
    if "cpu_work" not in wish:
        return True
    return "power" in node and bool(wish["cpu_work"] / (node["power"] * cores) <= wish.get("wall_time", 3600))


def _is_site_right(wish: Written, node: Written) -> bool:
    return node["site"] in (set(wish.get("sites", ())) or {node["site"]}) - set(wish.get("banned_sites", ()))


def _are_tags_right(wish: Any, tags: set[str]) -> bool:
    if not isinstance(wish, str):
        return set(wish) <= tags
    python = re.sub(r"\w+", lambda name: str(name[0] in tags), wish)
    python = python.replace("&", " and ").replace("|", " or ").replace("~", " not ")
    return bool(eval(python, {"__builtins__": {}}))  # noqa: S307 - but True, False, and, or, not and parentheses


def _is_system_right(wish: Written, system: Written) -> bool:
    return (
        wish.get("name", system.get("name")) == system.get("name")
        and ("glibc" not in wish or _number(system.get("glibc", "0")) >= _number(wish["glibc"]))
        and (not wish.get("user_namespaces") or system.get("user_namespaces") is True)
    )


def _is_processor_right(wish: Written, processor: Written) -> bool:
    level, has = wish.get("level"), processor.get("level")
    name = wish.get("name", "x86_64" if level else None)
    if name is not None and name != processor.get("name", "x86_64" if has else None):
        return False
    return not level or (has is not None and level.get("min", has) <= has <= level.get("max", has))


def _are_gpus_right(wish: Written | None, gpu: Written | None) -> bool:
    if wish is None or gpu is None:
        return wish is None
    count, capability = wish.get("count", 1), wish.get("compute_capability", {})
    least = count if isinstance(count, int) else count.get("min", 1)
    has = _number(gpu.get("compute_capability", "0"))
    return bool(
        gpu.get("count", 1) >= least
        and gpu.get("memory", 0) >= wish.get("memory", 0)
        and wish.get("vendor", gpu.get("vendor")) == gpu.get("vendor")
        and _number(gpu.get("driver", "0")) >= _number(wish.get("driver", "0"))
        and (not capability or has > (0, 0, 0))
        and _number(capability.get("min", "0")) <= has <= _number(capability.get("max", "99"))
    )


def _number(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in version.split(".")]
    return tuple([*parts, 0, 0, 0][:3])
