#!/usr/bin/env python3
"""Writes the parts of docs/reference that follow from the code: `make docs`; `--check` only says what is stale.

A page holds blocks between `<!-- begin NAME -->` and `<!-- end NAME -->`; the text between them is ours.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import click
from prometheus_client import Histogram
from pydantic import BaseModel

from pipeline import metrics
from pipeline.api.app import create_app
from pipeline.api.services import Services
from pipeline.cli.main import cli
from pipeline.settings import Settings
from schemas import campaign, messages, policy, requirements, resources, sites, states, wishes

REFERENCE = Path(__file__).resolve().parent / "reference"
SCHEMA_FILE = REFERENCE / "campaign.schema.json"
_METRIC = re.compile(r"^\| (penstock_\w+) \| ([\w, ]*)\| (.+) \|$", re.MULTILINE)
_BLOCK = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    words = list(head)
    lines = [words, ["---"] * len(words), *(list(row) for row in rows)]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )


def kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words: `string`, `integer, 0 to 65535`, `list of string`."""
    match schema:
        case {"$ref": str(name)}:
            words = name.rpartition("/")[2]
        case {"const": value}:
            words = f"`{value}`"
        case {"enum": values}:
            words = " or ".join(f"`{value}`" for value in values)
        case {"anyOf": options} | {"oneOf": options}:
            words = " or ".join(dict.fromkeys(kind(option) for option in options if option.get("type") != "null"))
        case {"prefixItems": [first, *others]}:
            words = f"list of {1 + len(others)} {kind(first)}"
        case {"type": "array"}:
            words = f"list of {kind(schema['items'])}"
        case {"type": "object", "additionalProperties": dict(inner)}:
            words = f"mapping to {kind(inner)}"
        case _:
            words = str(schema.get("type", "anything")) + limits(schema)
    return words


def limits(schema: Mapping[str, Any]) -> str:
    """The bounds of a number, in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    if low is not None:
        return f", at least {low}"
    if schema.get("exclusiveMinimum") == 0 and schema["type"] == "integer":
        return ", at least 1"
    if "exclusiveMinimum" in schema:
        return f", above {schema['exclusiveMinimum']}" + (f", at most {high}" if high is not None else "")
    return ""


def default(schema: Mapping[str, Any], *, required: bool) -> str:
    """What holds when nothing is said."""
    value = schema.get("default")
    if required:
        return "required"
    if value is None or value == "":
        return "none"
    if isinstance(value, dict) and value:
        return "see below"
    return f"`{json.dumps(value)}`" if isinstance(value, list | dict) else f"`{value}`"


def fields(model: type[BaseModel], *, prefix: str = "") -> str:
    """The fields of a model as a table."""
    schema = model.model_json_schema(by_alias=True)
    required = schema.get("required", [])
    rows = (
        (
            f"`{prefix}{name.upper() if prefix else name}`",
            kind(part),
            default(part, required=name in required),
            part.get("description", ""),
        )
        for name, part in schema["properties"].items()
    )
    return table(["name", "type", "default", "meaning"], rows)


def diagram(transitions: Mapping[Any, frozenset[Any]]) -> str:
    """A state table as a mermaid diagram: the first state is where it begins, those without successor end it."""
    states_in_order: list[StrEnum] = list(transitions)
    lines = ["stateDiagram-v2", f"    [*] --> {states_in_order[0]}"]
    for state in states_in_order:
        followers = [other for other in states_in_order if other in transitions[state]]
        lines += [f"    {state} --> {other}" for other in followers] or [f"    {state} --> [*]"]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def message_types() -> str:
    """The core message types as a table."""
    rows = (
        (
            f"`{body.type_name()}` v{body.version}",
            f"`{body.queue}`",
            ", ".join(f"`{name}`" for name in body.model_fields),
            body.rows or "-",
            (body.__doc__ or "").strip().splitlines()[0],
        )
        for body in messages.CORE_BODIES
    )
    return table(["type", "queue", "body", "ids are of", "says"], rows)


def commands(command: click.Command, path: str = "penstock") -> str:
    """Every command with its help and its options."""
    context = click.Context(command, info_name=path)
    if isinstance(command, click.Group):
        inner = {name: command.get_command(context, name) for name in command.list_commands(context)}
        return "".join(commands(part, f"{path} {name}") for name, part in inner.items() if part and not part.hidden)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    text = f"### `{usage}`\n\n{first_paragraph(command.help)}\n\n"
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    rows = (
        (", ".join(f"`{word}`" for word in option.opts + option.secondary_opts), option.help or "")
        for option in options
    )
    return text + (table(["option", "meaning"], rows) + "\n" if options else "")


def first_paragraph(text: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().partition("\n\n")[0].split())


def routes() -> str:
    """Every route of the API's OpenAPI document."""
    document = create_app(cast("Services", None)).openapi()  # a document is made without the database and all that
    rows = (
        (f"`{method.upper()} {path}`", first_paragraph(operation.get("description")))
        for path, operations in sorted(document["paths"].items())
        for method, operation in operations.items()
    )
    return table(["route", "does"], rows)


def told_metrics() -> list[list[tuple[str, str, str]]]:
    """The tables in the docstring of `pipeline.metrics`: what every process tells, and what the API alone does."""
    parts = (metrics.__doc__ or "").split("\n\n")
    return [rows for part in parts if (rows := _METRIC.findall(part))]


def metric_table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Metrics by name, labels and meaning."""
    found = (metric for metric in vars(metrics).values() if isinstance(metric, Histogram))
    histograms = {family.name for metric in found for family in metric.describe()}
    lines = (
        (
            f"`{name}`",
            ", ".join(f"`{label}`" for label in re.findall(r"\w+", labels)) or "-",
            meaning + (" (histogram)" if name in histograms else ""),
        )
        for name, labels, meaning in rows
    )
    return table(["name", "labels", "meaning"], lines)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "settings": lambda: fields(Settings, prefix="PENSTOCK_"),
    "jobs": lambda: diagram(states.JOB_TRANSITIONS),
    "pilots": lambda: diagram(states.PILOT_TRANSITIONS),
    "steps": lambda: diagram(states.STEP_TRANSITIONS),
    "campaigns": lambda: diagram(states.CAMPAIGN_TRANSITIONS),
    "campaign": lambda: fields(campaign.Campaign),
    "step": lambda: fields(campaign.Step),
    "requirement": lambda: fields(requirements.Requirement),
    "between": lambda: fields(wishes.Between),
    "memory": lambda: fields(wishes.Memory),
    "memory-limit": lambda: fields(wishes.MemoryLimit),
    "gpu-wish": lambda: fields(wishes.GpuWish),
    "system-wish": lambda: fields(wishes.SystemWish),
    "architecture-wish": lambda: fields(wishes.ArchitectureWish),
    "rates-wish": lambda: fields(wishes.RatesWish),
    "gpus": lambda: fields(resources.Gpus),
    "system": lambda: fields(resources.System),
    "architecture": lambda: fields(resources.Architecture),
    "rates": lambda: fields(resources.Rates),
    "retries": lambda: fields(campaign.Retries),
    "stop": lambda: fields(campaign.Stop),
    "step-input": lambda: fields(campaign.StepInput),
    "sites-file": lambda: fields(sites.SitesFile),
    "start-rate-entry": lambda: fields(sites.StartRateEntry),
    "storage-entry": lambda: fields(sites.StorageEntry),
    "site-entry": lambda: fields(sites.SiteEntry),
    "pilot-caps": lambda: fields(sites.PilotCaps),
    "meta-site-entry": lambda: fields(sites.MetaSiteEntry),
    "site-queue-entry": lambda: fields(sites.SiteQueueEntry),
    "policy": lambda: fields(policy.Policy),
    "share-entries": lambda: fields(policy.ShareEntries),
    "group-share": lambda: fields(policy.GroupShare),
    "limit-entry": lambda: fields(policy.LimitEntry),
    "message-types": message_types,
    "commands": lambda: commands(cli),
    "routes": routes,
    "process-metrics": lambda: metric_table(told_metrics()[0]),
    "api-metrics": lambda: metric_table(told_metrics()[1]),
    "kept-metrics": lambda: metric_table((kept.name, ", ".join(kept.labels), kept.help) for kept in metrics.STORED),
}


def filled(page: str) -> str:
    """`page` with every block written anew. Raises KeyError for a block that nobody writes."""
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}{match[3]}", page)


def wanted() -> dict[Path, str]:
    """What each generated file should hold."""
    pages = {path: filled(path.read_text()) for path in sorted(REFERENCE.glob("*.md"))}
    return pages | {SCHEMA_FILE: json.dumps(campaign.Campaign.model_json_schema(), indent=2) + "\n"}


def main() -> int:
    """Writes what is stale; with `--check`, names it and ends with 1."""
    parser = argparse.ArgumentParser(description="the generated parts of docs/reference")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something is stale")
    check = parser.parse_args().check
    stale = {path: text for path, text in wanted().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        sys.stdout.write(f"{'stale' if check else 'written'}: {path.relative_to(REFERENCE.parents[1])}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
