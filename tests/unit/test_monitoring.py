"""Alert rules, dashboards and the page about them name what there is, and mean what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from pipeline import metrics
from schemas.lifecycle import cause_of_end
from schemas.messages import CORE_BODIES
from schemas.pilots import Report
from schemas.states import JOB_ON_PILOT, PILOT_FINAL, CampaignState, JobState, PilotState
from tests.documentation import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules" / "penstock.yml"
TESTS = ROOT / "deploy" / "prometheus" / "tests" / "alerts.yml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
NAME = re.compile(r"\bpenstock_[a-z_]+\b")
VARIABLES = {"$__rate_interval": "1m"}


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions(dashboard: Path) -> Iterator[str]:
    """What the panels of a dashboard ask Prometheus."""
    for panel in json.loads(dashboard.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Ask promtool, which says what is wrong."""
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def told() -> set[str]:
    """The names that the table in `pipeline.metrics` tells, and those that the database keeps."""
    rows = re.findall(r"^\| (penstock_\w+) \|", metrics.__doc__ or "", re.MULTILINE)
    return {*rows, *(stored.name for stored in metrics.STORED)}


def test_the_rules_are_rules_and_each_alert_fires_for_what_it_is_about_and_for_nothing_else() -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", TESTS)
    tested = set(re.findall(r"alertname=\"(\w+)\"", TESTS.read_text()))
    assert tested == {rule["alert"] for rule in alerts()}


def test_each_alert_says_what_is_wrong_and_what_to_do_and_so_does_the_page() -> None:
    page = (ROOT / "docs" / "how-to" / "monitor.md").read_text()
    for rule in alerts():
        said = rule["annotations"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "\n" not in said["runbook"]
        assert re.search(rf"^\| `{rule['alert']}` \| .*\S \| {re.escape(said['runbook'])} \|$", page, re.MULTILINE), (
            rule
        )
    assert len(re.findall(r"^\| `Penstock\w+` \|", page, re.MULTILINE)) == len(alerts())


def test_the_table_of_metrics_has_all_that_a_process_can_tell() -> None:
    declared = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in REGISTRY.collect()
        if family.name.startswith("penstock_")
    }
    assert declared - told() == set()


def test_names_have_units_and_totals_say_so() -> None:
    for stored in metrics.STORED:
        assert stored.name.endswith("_total") == (stored.kind == "counter"), stored
        assert not {"job", "campaign", "user", "owner", "id"} & set(stored.labels), stored


@pytest.mark.parametrize("file", [RULES, *DASHBOARDS], ids=lambda path: path.stem)
def test_every_metric_that_is_named_is_one_that_somebody_tells(file: Path) -> None:
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAME.findall(file.read_text())}
    assert named, "nothing is named: the test looks at nothing"
    assert {name for name in named if name not in told()} == set()


def labels_told() -> dict[str, set[str]]:
    """The labels of each metric, by the tables in `pipeline.metrics` and what the database keeps."""
    rows = re.findall(r"^\| (penstock_\w+) \| ([\w, ]*)\|", metrics.__doc__ or "", re.MULTILINE)
    told = {name: {label for label in re.split(r"[, ]+", labels) if label} for name, labels in rows}
    return told | {stored.name: set(stored.labels) for stored in metrics.STORED}


VALUES: dict[tuple[str, str], set[str]] = {
    ("penstock_reconcile_finds_total", "message"): {body.type_name() for body in CORE_BODIES},
    ("penstock_wasted_core_seconds_total", "outcome"): {
        cause_of_end(before, after, outcome)
        for before in JOB_ON_PILOT
        for after in JobState
        for outcome in (None, *get_args(Report.model_fields["outcome"].annotation))
    },
    ("penstock_instances", "kind"): {"api", "consumer", "triggers"},
    ("penstock_campaigns", "state"): set(CampaignState),
    ("penstock_jobs", "state"): set(JobState),
    ("penstock_job_transitions_total", "from_state"): {"", *JobState},
    ("penstock_pilots", "state"): set(PilotState),
    ("penstock_pilots_ended_total", "state"): set(PILOT_FINAL),
}
"""What a label can say, where a rule or a panel selects by it."""
ANY = {"site", "site_queue", "vo", "queue", "status", "le"}
"""Labels whose values are the installation's own, or HTTP's."""


@pytest.mark.parametrize("file", [RULES, *DASHBOARDS], ids=lambda path: path.stem)
def test_every_label_that_is_selected_by_is_told_and_can_say_that(file: Path) -> None:
    told = labels_told()
    text = file.read_text().replace('\\"', '"')
    for name, matchers in re.findall(r"\b(penstock_\w+)\{([^}]*)\}", text):
        metric = re.sub(r"_(bucket|sum|count)$", "", name)
        for label, words in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            assert label in told[metric] | {"le"}, (metric, label)
            known = VALUES.get((metric, label))
            assert label in ANY or known is not None, f"say in VALUES what {label} of {metric} can be"
            assert known is None or set(words.split("|")) <= known, (metric, label, words)


def test_the_table_of_metrics_has_the_labels_of_each() -> None:
    told = labels_told()
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            assert told[name] == set(metric._labelnames)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_drawn(dashboard: Path, tmp_path: Path) -> None:
    """Every expression is PromQL, panels have ids of their own and cover nobody else's place."""
    drawn = json.loads(dashboard.read_text())
    panels = drawn["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    known = {"$" + variable["name"] for variable in drawn["templating"]["list"]}
    rules = []
    for number, expression in enumerate(expressions(dashboard)):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)  # noqa: PLW2901
        assert set(re.findall(r"\$\w+", expression)) <= known, expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": dashboard.stem, "rules": rules}]}))
    promtool("check", "rules", file)


def test_grafana_is_told_where_its_dashboards_and_prometheus_are() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "penstock.yml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert {source["type"]} <= set(services)
    mounts = {mount.split(":")[1] for mount in services["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounts
    assert {json.loads(dashboard.read_text())["uid"] for dashboard in DASHBOARDS} == {
        f"penstock-{dashboard.stem}" for dashboard in DASHBOARDS
    }


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_panel_that_the_chosen_vo_does_not_narrow_says_so(dashboard: Path) -> None:
    drawn = json.loads(dashboard.read_text())
    if "vo" in {variable["name"] for variable in drawn["templating"]["list"]}:
        for panel in drawn["panels"]:
            asked = [target["expr"] for target in panel.get("targets", ())]
            assert not asked or "$vo" in "".join(asked) or "of all VOs" in panel["description"], panel["title"]
