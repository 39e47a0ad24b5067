"""Reading YAML and JSON files, and saying in one line where one is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import BadInput

M = TypeVar("M", bound=BaseModel)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # the C one is there or not
    """YAML that refuses what YAML allows and nobody means: a key twice in one mapping."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    loader.flatten_mapping(node)
    built: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in built:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        built[key] = loader.construct_object(value_node, deep=True)
    return built


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_model(path: Path, model: type[M]) -> M:
    """The model in a YAML or JSON file. Raises BadInput that names the file, the field and the reason."""
    raw = _parse(path)
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: it must be a mapping of fields, not {_kind(raw)}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{path}: {first_complaint(error)}") from error


def first_complaint(error: ValidationError) -> str:
    """The first thing that is wrong, as `path.of.field: reason`, and how many more there are."""
    errors = error.errors(include_url=False)
    # of a union's branches, the complaint that lies deepest is about what was meant
    first = max(errors, key=lambda one: len(one["loc"])) if _is_union(errors) else errors[0]
    field = ".".join(str(part) for part in first["loc"] if not _is_branch(part))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = "unknown field"
    rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 and not _is_union(errors) else ""
    return f"{field}: {reason}{rest}" if field else f"{reason}{rest}"


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            return yaml.load(stream, Loader=_Loader)  # noqa: S506 - a safe loader, made stricter
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: it is no text file ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{path}: it is no YAML: {error.problem}{place}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: it is no YAML: {error}") from error


def _kind(raw: Any) -> str:
    if raw is None:
        return "empty"
    names: dict[str, str] = {"list": "a list", "str": "a text"}
    return names.get(type(raw).__name__, f"a {type(raw).__name__}")


def _is_union(errors: list[Any]) -> bool:
    return len({one["loc"][:3] for one in errors}) == 1 and any(_is_branch(p) for one in errors for p in one["loc"])


def _is_branch(part: int | str) -> bool:
    """Whether this part of a path is pydantic's name of a union's branch, and no field of the file."""
    return isinstance(part, str) and ("[" in part or part in {"Axes", "Range", "StepInput", "str", "int", "float"})
