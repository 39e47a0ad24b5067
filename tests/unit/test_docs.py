"""The documentation says what is there: generated parts are fresh, links lead somewhere, commands are real."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from pipeline.cli.main import cli
from schemas.campaign import Campaign
from schemas.sites import SitesFile

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of a page in a language, without their indentation."""
    for indent, found, body in FENCE.findall(page.read_text()):
        if found == language:
            yield "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))


def commands() -> Iterator[tuple[Path, str]]:
    """Every `penstock` command of every console block."""
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in block.splitlines():
                if line.startswith("$ penstock"):
                    yield page, line.removeprefix("$ ")


def unknown_words(line: str) -> list[str]:
    """What in a command line no command or option answers to."""
    _program, *words = shlex.split(line, comments=True)
    command: click.Command = cli
    context = click.Context(command, info_name="penstock")
    while isinstance(command, click.Group):
        if not words:
            return ["(no command)"]
        found = command.get_command(context, words[0])
        if found is None:
            return [words[0]]
        command, context, words = found, click.Context(found, info_name=words[0], parent=context), words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]


def test_the_generated_pages_are_fresh() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, f"run `make docs`: {check.stdout}{check.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = [page.parent / target for target in LINK.findall(page.read_text())]
    assert [str(target) for target in targets if not target.exists()] == []


def test_every_command_in_the_documentation_exists() -> None:
    found = list(commands())
    assert len(found) > 10
    wrong = {f"{name_of(page)}: {line}": words for page, line in found if (words := unknown_words(line))}
    assert wrong == {}


@pytest.mark.parametrize("page", ["README.md", "docs/reference/job-file.md"])
def test_the_job_file_that_a_page_shows_is_valid(page: str) -> None:
    campaigns = [body for body in blocks(ROOT / page, "yaml") if body.startswith("campaign:")]
    assert [len(Campaign.model_validate(yaml.safe_load(body)).steps) for body in campaigns] == [2]


def test_the_sites_file_that_the_reference_shows_is_valid() -> None:
    (body,) = blocks(ROOT / "docs" / "reference" / "sites-file.md", "yaml")
    assert SitesFile.model_validate(yaml.safe_load(body)).sites


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_a_page_compiles(page: Path) -> None:
    for body in blocks(page, "python"):
        compile(body, name_of(page), "exec")
