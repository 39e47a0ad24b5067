"""The help: complete, with examples that parse, and the same words in lists and in the commands."""

from __future__ import annotations

import shlex

import click
import pytest

from pipeline.cli.main import SECTIONS, cli, run
from tests.unit.cli.tree import commands

COMMANDS = commands()
LISTINGS = ("list", "queues", "instances", "doctor", "shares", "limits", "match", "why", "drains")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_shows_an_example_that_parses(path: str) -> None:
    command, context = COMMANDS[path]
    helped = command.get_help(context)
    assert "Example:" in helped
    lines = [line.strip() for line in helped.partition("Example:")[2].splitlines() if "penstock " in line]
    assert lines, f"{path}: no example"
    for line in lines:
        assert parses(line), f"{path}: {line}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_says_what_it_does(path: str) -> None:
    command, _context = COMMANDS[path]
    assert command.help
    undocumented = [
        parameter.name for parameter in command.params if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert undocumented == []


@pytest.mark.parametrize("path", [path for path in COMMANDS if path.split()[-1] in {*LISTINGS, "show"}])
def test_every_listing_gives_json(path: str) -> None:
    command, _context = COMMANDS[path]
    assert "--json" in {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("name", [name for commands in SECTIONS.values() for name in commands])
def test_the_list_of_commands_says_what_the_command_says(name: str) -> None:
    (lazy,) = [commands[name] for commands in SECTIONS.values() if name in commands]
    command, _context = COMMANDS[f"penstock {name}"]
    assert (command.help or "").splitlines()[0] == lazy.help


def test_the_help_is_sorted_by_audience(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("For users:") < shown.index("submit") < shown.index("For operators: processes:")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_us(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"_PENSTOCK_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_completion_offers_commands_by_their_first_letters() -> None:
    offered = cli.shell_complete(click.Context(cli, info_name="penstock"), "re")
    assert [item.value for item in offered] == ["redis", "resume"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["jobs", "list", "--colour", "red"], "No such option '--colour'"),
        (["jobs", "show", "seven"], "'seven' is no id"),
        (["jobs", "kill"], "Name jobs by id or by an option."),
        (["dead", "requeue"], "Name dead letters by id or by a filter, or say --all."),
        (["enqueue", "data", "FilesDue", "--ids", "1,x"], "'1,x' are no ids"),
        (["jobs", "show", "9" * 30], "is no id"),
        (["tokens", "create", "a", "--expires-in", "99999999d"], "is over a hundred years"),
        (["dead", "list", "--since", "yesterday"], "'yesterday' is no time"),
    ],
)
def test_a_mistyped_command_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert len(caught.err.splitlines()) == 1
    assert caught.err.startswith("penstock: ")
    assert said in caught.err


def test_a_group_without_a_command_shows_its_help_and_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs"]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "\nCommands:\n" in caught.err


def parses(line: str) -> bool:
    """Whether an example is a command line that click accepts; what stands around `penstock` is the shell's."""
    words = shlex.split(
        line.replace('"$(', " ")
        .replace(')"', " ")
        .replace("$(", " ")
        .replace("&&", " && ")
        .replace(")", " ")
        .replace("|", " | ")
    )
    start = words.index("penstock")
    ends = [words.index(end) for end in ("&&", "|", "2>") if end in words[start:]]
    command: click.Command = cli
    context = click.Context(cli, info_name="penstock")
    rest = words[start + 1 : min([end for end in ends if end > start], default=len(words))]
    while isinstance(command, click.Group):
        if not rest:
            return False
        found = command.get_command(context, rest[0])
        if found is None:
            return False
        command, rest = found, rest[1:]
    if "penstock" in rest:
        rest = [*rest[: rest.index("penstock")], "placeholder"]
    command.make_context(command.name, list(rest))
    return True
