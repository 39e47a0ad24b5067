"""The documentation says what is there: links lead somewhere, commands are real."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click
import pytest
import yaml

from pipeline.cli.main import cli
from pipeline.pilot import VERSION
from schemas.campaign import Campaign
from schemas.placement import fresh_pilot
from schemas.requirements import Requirement, fits
from schemas.sites import SiteQueueEntry, SitesFile
from tests.documentation import PAGES, ROOT, blocks

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def bodies(page: Path, language: str) -> list[str]:
    """What stands in the blocks of a page in a language."""
    return [block.body for block in blocks(page) if block.language == language]


def commands() -> Iterator[tuple[str, str]]:
    """Every `penstock` command of every console block, with its page."""
    for page in PAGES:
        for block in blocks(page):
            for line in block.commands() if block.language == "console" else ():
                if line.startswith("penstock "):
                    yield block.page, line


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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = [page.parent / target for target in LINK.findall(page.read_text())]
    assert [str(target) for target in targets if not target.exists()] == []


def test_every_command_in_the_documentation_exists() -> None:
    found = list(commands())
    assert len(found) > 10
    wrong = {f"{page}: {line}": words for page, line in found if (words := unknown_words(line))}
    assert wrong == {}


@pytest.mark.parametrize("page", ["README.md", "docs/reference/job-file.md"])
def test_the_job_file_that_a_page_shows_is_valid(page: str) -> None:
    campaigns = [body for body in bodies(ROOT / page, "yaml") if body.startswith("campaign:")]
    assert [len(Campaign.model_validate(yaml.safe_load(body)).steps) for body in campaigns] == [2]


def test_every_dependency_has_a_row_in_the_readme_that_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    names = {
        re.split(r"[>=<\[]", entry)[0] for entry in (*project["project"]["dependencies"], *chain(*extras), *groups)
    }
    table = (ROOT / "README.md").read_text().partition("## Dependencies")[2].partition("\n## ")[0].lower()
    assert sorted(name for name in names if not re.search(rf"\b{name.lower()}\b", table)) == []


def test_no_dependency_is_declared_that_nothing_imports() -> None:
    """The import name where it is another than the distribution's, by what imports it."""
    modules = {"python-dotenv": "dotenv", "pyyaml": "yaml", "stomp.py": "stomp"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [re.split(r"[>=<]", entry)[0] for entry in project["project"]["dependencies"]]
    code = "".join(path.read_text() for folder in ("pipeline", "executors") for path in ROOT.glob(f"{folder}/**/*.py"))
    unused = [
        name
        for name in names
        if not re.search(rf"""(import |from |find_spec\("){modules.get(name, name.replace("-", "_"))}\b""", code)
    ]
    assert unused == []


def test_the_pilot_has_the_version_of_the_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
    assert f"\n## [{VERSION}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_sites_file_that_the_reference_shows_is_valid() -> None:
    (body,) = bodies(ROOT / "docs" / "reference" / "sites-file.md", "yaml")
    assert SitesFile.model_validate(yaml.safe_load(body)).sites


def test_every_requirement_that_the_reference_shows_is_met_by_the_node_that_it_shows() -> None:
    shown = [yaml.safe_load(body) for body in bodies(ROOT / "docs" / "reference" / "requirements.md", "yaml")]
    wishes = [Requirement.model_validate(each["requirements"]) for each in shown if "requirements" in each]
    queues = [SiteQueueEntry.model_validate(each["queue"]) for each in shown if "queue" in each]
    assert (len(wishes) + len(queues), len(queues)) == (len(shown), 1)
    node = fresh_pilot("GRID", queues[0], 0.0)
    assert [fits(wish, node).reasons for wish in wishes] == [()] * len(wishes)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_a_page_compiles(page: Path) -> None:
    for body in bodies(page, "python"):
        compile(body, name_of(page), "exec")
