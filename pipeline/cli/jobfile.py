"""Reading YAML and JSON files, and saying in one line where one is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.cli.words import counted
from pipeline.errors import BadInput

M = TypeVar("M", bound=BaseModel)
_UNKNOWN = "unknown field"
_SHORT = 80
_WANTED = {
    "model_type": "a mapping of fields",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "a text",
}
_LENGTHS = {"too_long": ("at most", "max_length"), "too_short": ("at least", "min_length")}


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
        raise BadInput(f"{path}: {first_complaint(error, raw)}") from error


def first_complaint(error: ValidationError, raw: Any = None) -> str:
    """What is wrong, as `path.of.field: reason`, and how many more things are; `raw`: what was validated."""
    complaints = [_complaint(details, raw) for details in error.errors(include_url=False)]
    # a container that is too short, say, is so for what is wrong inside it
    apart = [one for one in complaints if not any(_lies_in(other.path, one.path) for other in complaints)]
    # what does not even have the type of a union's branch was meant for another branch
    meant = [one for one in apart if not one.of_other_branch] or apart[:1]
    first = next((one for one in meant if one.reason == _UNKNOWN), meant[0])
    field = ".".join(str(part) for part in first.path)
    rest = f" (and {len(meant) - 1} more)" if len(meant) > 1 else ""
    return f"{field}: {first.reason}{rest}" if field else f"{first.reason}{rest}"


@dataclass(frozen=True, slots=True)
class _Complaint:
    path: tuple[str | int, ...]
    reason: str
    of_other_branch: bool


def _complaint(details: ErrorDetails, raw: Any) -> _Complaint:
    """One error of pydantic's, without the names of unions' branches, which are no fields of the file."""
    place, path, branch = raw, [], False
    for part in details["loc"]:
        branch = False
        if _leads_on(place, part):
            place = place[part]
        elif raw is not None and details["type"] != "missing":
            branch = True
            continue
        elif raw is not None and part != details["loc"][-1]:
            continue
        path.append(part)
    return _Complaint(tuple(path), " ".join(_reason(details).split()), branch and details["type"].endswith("_type"))


def _reason(details: ErrorDetails) -> str:
    """In words of files: who writes one knows of no tuples and no classes."""
    kind, said = details["type"], details["input"]
    if kind == "string_type" and isinstance(said, bool | int | float):
        return f"write it in quotes: without, YAML takes it for {_kind(said)}"
    if kind in _WANTED:
        return f"it must be {_WANTED[kind]}, not {_kind(said)}"
    if kind in _LENGTHS:
        word, bound = _LENGTHS[kind]
        return f"it must have {word} {counted(details['ctx'][bound], 'entry', 'entries')}"
    if kind == "string_pattern_mismatch" and len(said) <= _SHORT and said.isprintable():
        return f"{said!r} should match pattern '{details['ctx']['pattern']}'"
    return _UNKNOWN if kind == "extra_forbidden" else details["msg"].removeprefix("Value error, ")


def _leads_on(place: Any, part: str | int) -> bool:
    """Whether `part` is a field or an index of what was read, and not the name of a branch."""
    if isinstance(place, list):
        return isinstance(part, int) and part < len(place)
    return isinstance(place, dict) and part in place


def _lies_in(inner: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            return yaml.load(stream, Loader=_Loader)  # noqa: S506 - a safe loader, made stricter
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: it is no text file ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise BadInput(f"{path}: it is nested too deeply") from error
    except yaml.reader.ReaderError as error:
        raise BadInput(f"{path}: it is no text file in UTF-8 (byte {error.position})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = f"{error.context} {error.problem}" if f"{error.problem}".startswith("but ") else error.problem
        raise BadInput(f"{path}: it is no YAML: {problem}{place}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: it is no YAML: {' '.join(str(error).split())}") from error


def _kind(raw: Any) -> str:
    if raw is None:
        return "empty"
    names = {
        "list": "a list",
        "tuple": "a list",
        "dict": "a mapping",
        "str": "a text",
        "int": "a number",
        "float": "a number",
        "bool": "true or false",
    }
    return names.get(type(raw).__name__, f"a {type(raw).__name__}")
