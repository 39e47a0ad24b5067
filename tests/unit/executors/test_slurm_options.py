"""The options of a Slurm queue: what the page for operators says of them is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from executors.pilots.batch.slurm_options import SlurmOptions, measures
from executors.pilots.batch.ssh import SshOptions
from executors.pilots.port import QueueSettings
from pipeline.errors import BadSettings
from schemas.sites import SiteQueueEntry, SitesFile
from tests.documentation import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "slurm.md"


def options(given: dict[str, object]) -> SlurmOptions:
    entry = SiteQueueEntry(name="queue", batch_system="slurm", options=given)
    return SlurmOptions.of(QueueSettings("SITE.queue", entry, Path()))


def test_the_sites_file_of_the_page_is_valid() -> None:
    [shown] = [block.body for block in blocks(PAGE) if block.language == "yaml"]
    [queue] = SitesFile.model_validate(yaml.safe_load(shown)).sites[0].queues
    opened = options(queue.options)
    assert opened.ssh is not None
    assert measures(queue, opened) == [
        "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=8", "--mem=16000M", "--time=1440", "--no-requeue",
        "--export=NONE", "--propagate=NONE", "--partition=short", "--account=atlas",
    ]  # fmt: skip


def test_the_page_names_every_option() -> None:
    text = PAGE.read_text()
    names = [*SlurmOptions.model_fields, *SshOptions.model_fields]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_sites_own_words_come_last_and_minutes_are_whole() -> None:
    entry = SiteQueueEntry.model_validate({"name": "queue", "wall_time": 90, "nodes": 4, "gpu": {"count": 2}})
    words = measures(entry, options({"qos": "high", "constraint": "a&b", "extra": ["--mem=0", "--comment=x y"]}))
    assert {"--time=2", "--nodes=4", "--gres=gpu:2"} <= set(words)
    assert words[-4:] == ["--qos=high", "--constraint=a&b", "--mem=0", "--comment=x y"]


@pytest.mark.parametrize(
    "given",
    [
        {"partitoin": "main"},
        {"folder": "relative"},
        {"folder": "/with/%j"},
        {"timeout": 0},
        {"extra": "--exclusive"},
        {"ssh": {}},
        {"ssh": {"host": "-oProxyCommand=true"}},
        {"ssh": {"host": "login", "password": "x"}},
    ],
)
def test_what_makes_no_sense_is_refused_with_the_queue_and_the_option(given: dict[str, object]) -> None:
    with pytest.raises(BadSettings, match=f"SITE.queue: options of the batch system slurm: {next(iter(given))}"):
        options(given)
