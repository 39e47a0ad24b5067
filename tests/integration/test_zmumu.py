"""The example's payloads, run as a pilot runs them: as programs in a folder of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from schemas.campaign import Campaign, render
from schemas.sites import SitesFile

EXAMPLE = Path(__file__).parents[2] / "examples" / "zmumu"
CAMPAIGN = Campaign.model_validate(yaml.safe_load((EXAMPLE / "campaign.yaml").read_text()))


def run_step(name: str, folder: Path, *flags: str) -> None:
    """Run every job of a step in `folder`, its sandbox unpacked there."""
    (step,) = (step for step in CAMPAIGN.steps if step.name == name)
    for file in step.sandbox:
        (folder / file).write_bytes((EXAMPLE / file).read_bytes())
    for index in range(step.size()):
        program, *arguments = (render(word, step.values(index)) for word in step.command)
        assert program == "python3"
        subprocess.run([sys.executable, *flags, *arguments], cwd=folder, check=True, capture_output=True)
        assert all((folder / render(output, step.values(index))).stat().st_size for output in step.outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all jobs of both steps have run; the analysis with nothing but the standard library."""
    folder = tmp_path_factory.mktemp("zmumu")
    run_step("analyse", folder, "-I", "-S")
    run_step("merge", folder)
    return folder


def test_the_merged_spectrum_is_the_known_one(folder: Path) -> None:
    spectrum = json.loads((folder / "zmumu.json").read_text())
    assert spectrum["events"] == 10_583
    assert spectrum["peak_bin"] == [90, 91]
    assert spectrum["median"] == pytest.approx(90.28, abs=0.005)
    assert sum(spectrum["counts"]) + spectrum["underflow"] + spectrum["overflow"] == 10_583


def test_every_event_is_in_exactly_one_slice(folder: Path) -> None:
    slices = [json.loads((folder / f"histogram-{index}.json").read_text())["events"] for index in range(24)]
    assert sum(slices) == 10_583
    assert max(slices) - min(slices) <= 1


def test_the_plot_is_a_png(folder: Path) -> None:
    assert (folder / "zmumu.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_merging_fails_when_a_slice_is_missing(folder: Path, tmp_path: Path) -> None:
    for index in range(23):
        (tmp_path / f"histogram-{index}.json").write_bytes((folder / f"histogram-{index}.json").read_bytes())
    merge = subprocess.run(
        [sys.executable, str(EXAMPLE / "merge.py"), "--of", "24"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert merge.returncode != 0
    assert "histogram-23.json" in merge.stderr
    assert not (tmp_path / "zmumu.json").exists()


def test_the_sites_file_offers_what_the_jobs_want() -> None:
    sites = SitesFile.model_validate(yaml.safe_load((EXAMPLE / "sites.yaml").read_text()))
    (site,) = sites.sites
    (queue,) = site.queues
    for step in CAMPAIGN.steps:
        needs = step.requirements.needs
        assert needs.max_cores <= queue.cores
        assert needs.memory(needs.max_cores) * queue.cores <= queue.memory
