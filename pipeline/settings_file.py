"""Where settings come from: the environment, and the file that PENSTOCK_SETTINGS_FILE names, over which it wins.

The file has lines NAME=VALUE, much as systemd's EnvironmentFile has them: comments on lines of their own that begin
with #, quotes around a value that needs them, JSON as it is. Nothing in a value is replaced by anything, and nothing of
a line is passed over: what it can't mean is refused.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from pipeline.errors import BadSettings
from pipeline.settings import Settings

_PREFIX = "PENSTOCK_"
_OWN = f"{_PREFIX}SETTINGS_FILE"
KNOWN = frozenset(f"{_PREFIX}{name.upper()}" for name in Settings.model_fields)
"""Every name that the environment may have."""


def load_settings() -> Settings:
    """The settings from the environment, and from the file that it names, if any.

    Raises BadSettings for the first thing that is wrong, with its variable, or its file and line.
    """
    said = {name.upper(): value for name, value in os.environ.items() if name.upper() in KNOWN}
    file = said.pop(_OWN, "")
    lines = read_lines(Path(file)) if file else {}
    words = {name: line.value for name, line in lines.items()} | said
    places = {name: line.place for name, line in lines.items() if name not in said}
    try:
        return Settings(settings_file=Path(file) if file else None, **_values(words, places))
    except ValidationError as error:
        first = error.errors()[0]
        field, *inner = (str(part) for part in first["loc"])
        inside = f" ({'.'.join(inner)})" if inner else ""
        raise BadSettings(f"{_where(field, places)}{inside}: {first['msg']} (got {first.get('input')!r})") from error


@dataclass(frozen=True, slots=True)
class Line:
    """What a line of the file says, and which line it is, in words."""

    value: str
    place: str


def read_lines(file: Path) -> Mapping[str, Line]:
    """What a settings file says, by the names of settings; of one that it says twice, the last.

    Raises BadSettings for a file that can't be read, a line that is none, and a name that is no setting's.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSettings(f"{_OWN}: can't read {file}: {error.strerror}; make it readable, or unset {_OWN}") from error
    except UnicodeDecodeError as error:
        raise BadSettings(f"{file}: {error.reason} at byte {error.start}; settings files are UTF-8") from error
    return dict(_read(binding, file) for binding in parse_stream(io.StringIO(text)) if not _says_nothing(binding))


def _says_nothing(binding: Binding) -> bool:
    """Whether it is a comment, or blank."""
    return binding.key is None and not binding.error


def _read(binding: Binding, file: Path) -> tuple[str, Line]:
    text = binding.original.string
    number = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
    place = f"{file}, line {number}"
    name, _equals, word = text.strip().partition("=")
    if binding.error or binding.key is None or binding.value is None or name.startswith("export "):
        # the line itself may hold a password, and what is said goes to logs
        raise BadSettings(f"{place}: no NAME=VALUE; write a value with spaces at its ends or quotes in it in quotes")
    if binding.key == _OWN:
        raise BadSettings(f"{place}: {_OWN} can't name another file; remove the line")
    if binding.key not in KNOWN:
        near = get_close_matches(binding.key.upper(), KNOWN - {_OWN}, n=1)
        hint = f"did you mean {near[0]}?" if near else "remove the line; docs/reference/settings.md has all settings"
        raise BadSettings(f"{place}: there is no setting {binding.key}; {hint}")
    if _has_comment(word.strip()):
        raise BadSettings(
            f"{place}: {binding.key}: comments stand on lines of their own; write a value with ' #' in it in quotes"
        )
    return binding.key, Line(binding.value, place)


def _has_comment(word: str) -> bool:
    """Whether a comment follows the value, as dotenv would have it: systemd takes it for a part of the value."""
    quote = word[:1]
    return not word.endswith(quote) if quote in {"'", '"'} else re.search(r"\s#", word) is not None


def _values(words: Mapping[str, str], places: Mapping[str, str]) -> dict[str, Any]:
    """Each setting that something is said of, decoded where it is JSON."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): word for name, word in words.items()}
    values = {}
    for name, field in Settings.model_fields.items():
        word, _key, is_json = source.get_field_value(field, name)
        if word is None:
            continue
        try:
            values[name] = source.prepare_field_value(name, field, word, is_json)
        except ValueError as error:
            raise BadSettings(f"{_where(name, places)}: no JSON: {error} (got {word!r})") from error
    return values


def _where(field: str, places: Mapping[str, str]) -> str:
    name = f"{_PREFIX}{field.upper()}"
    return f"{places[name]}: {name}" if name in places else name
