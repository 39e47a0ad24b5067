"""What a batch system starts as a pilot, and the one shell script that carries it to a worker node.

The pilot command is found by entry point (`penstock.pilot_commands`), so that others can drive the same factory. Our
own, `penstock`, is the pilot program with what the site queue and the API's address make of it.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from executors.pilots.installed import load
from pipeline.pilot_archive import NAME, packed
from pipeline.settings import Settings
from schemas.sites import SiteQueueEntry

GROUP = "penstock.pilot_commands"
TAG = "PENSTOCK_PILOT_TAG"
SECRET_FILE = "PENSTOCK_PILOT_SECRET_FILE"  # noqa: S105 - the name of a variable, no secret


@dataclass(frozen=True, slots=True)
class PilotProgram:
    """What is started: `files` lie beside each other, `command` runs in their folder.

    The environment of the command names the pilot (`PENSTOCK_PILOT_TAG`) and a file that it alone may read, with the
    secret that lets it in (`PENSTOCK_PILOT_SECRET_FILE`).
    """

    files: Mapping[str, bytes]
    command: tuple[str, ...]


Build = Callable[[Settings, SiteQueueEntry], PilotProgram]
"""The program of a site queue's pilots. Raises BadSettings where something is missing."""


def penstock_pilot(settings: Settings, entry: SiteQueueEntry) -> PilotProgram:
    """Our own pilot."""
    given = {
        "api-url": entry.pilot_api_url or settings.resolved_api_url(),
        "cores": entry.cores,
        "memory": entry.memory,
        "disk": entry.disk,
        "gpus": entry.gpu.count if entry.gpu else 0,
    }
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return PilotProgram({NAME: packed()}, (entry.python, NAME, *options))


def find_program(settings: Settings, entry: SiteQueueEntry) -> PilotProgram:
    """That of the entry point which the queue names. Raises BadSettings for an unknown one."""
    build: Build = load(GROUP, entry.pilot, what="pilot command", where=f"queue {entry.name}")
    return build(settings, entry)


def script(program: PilotProgram, secrets: Mapping[str, str], tag: str = '"$1"') -> str:
    """One POSIX shell script that holds everything: it unpacks the files into a folder of its own that goes with it,
    and becomes the shell of the pilot. `secrets` by tag; `tag`: the shell words that say which of them runs here.

    SIGTERM and SIGINT reach the pilot; the exit code is the pilot's.
    """
    unpack = "\n".join(
        f"base64 -d > {shlex.quote(name)} <<'{_END}'\n{_wrapped(content)}\n{_END}"
        for name, content in sorted(program.files.items())
    )
    cases = "\n".join(f"{shlex.quote(mine)}) secret={shlex.quote(secret)} ;;" for mine, secret in secrets.items())
    return _SCRIPT.format(
        tag=tag, unpack=unpack, cases=cases, command=shlex.join(program.command), tag_name=TAG, file_name=SECRET_FILE
    )


_END = "END-OF-FILE"
_SCRIPT = """#!/bin/sh
tag={tag}
case "$tag" in
{cases}
*) echo "penstock: no pilot is called '$tag' here" >&2; exit 64 ;;
esac
mask=$(umask)
umask 077
folder=$(mktemp -d "${{TMPDIR:-/tmp}}/penstock-$tag-XXXXXX") || exit 65
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/program" "$folder/work" && cd "$folder/program" || exit 65
{unpack}
printf %s "$secret" > secret
umask "$mask"
export {tag_name}="$tag" {file_name}="$folder/program/secret" PENSTOCK_PILOT_WORKDIR="$folder/work"
{command} < /dev/null &
pilot=$!
trap 'kill -TERM "$pilot" 2>/dev/null' TERM INT
wait "$pilot"
code=$?
while kill -0 "$pilot" 2>/dev/null; do
    wait "$pilot"
    code=$?
done
exit "$code"
"""


def _wrapped(content: bytes) -> str:
    text = base64.b64encode(content).decode()
    return "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
