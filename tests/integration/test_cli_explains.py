"""What the commands print that say who gets what, and why: `policy`, `shares`, `limits`, `jobs why`, `match`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import run
from tests import building
from tests.api_server import RunningApi
from tests.backlog import person, waiting

POLICY = """\
shares:
  groups:
    prod:
      share: 3
      owners:
        alice: 1.5
    user:
      share: 1
limits:
- name: merges
  max_running: 1
  job_type: Merge
"""
NODE = {"site": "A", "cores": 4, "memory": 8192, "disk": 10_240, "wall_time": 86_400}
Say = Callable[..., str]

pytestmark = pytest.mark.usefixtures("as_operator")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    """What a command line prints to standard output; it must end with the exit code `expect`."""

    def say(*words: str, expect: int = 0) -> str:
        assert run(words) == expect
        captured = capsys.readouterr()
        if expect:
            assert captured.out == ""
            assert len(captured.err.splitlines()) == 1
        return captured.err if expect else captured.out

    return say


def rows(table: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in table.splitlines()]


def test_a_policy_is_applied_with_a_difference_and_shown_as_a_file_that_can_be_applied(
    said: Say, tmp_path: Path
) -> None:
    Path("policy.yaml").write_text(POLICY)
    difference = (
        "+ group prod: share 3\n+ owner alice of prod: share 1.5\n+ group user: share 1\n"
        "+ limit merges: 1 running (job_type=Merge)\n"
    )
    assert said("policy", "show").startswith("# nobody has applied a policy")
    assert said("policy", "apply", "policy.yaml", "--dry-run") == difference
    assert said("policy", "apply", "policy.yaml") == difference
    shown = said("policy", "show")
    head, _, body = shown.partition("\n")
    assert head.startswith("# applied by op at 20")
    assert yaml.safe_load(body) == yaml.safe_load(POLICY)
    (tmp_path / "again.yaml").write_text(shown)
    assert said("policy", "apply", "again.yaml") == "nothing changes\n"
    Path("policy.yaml").write_text("limits: []\n")
    assert said("policy", "apply", "policy.yaml").splitlines() == [
        "- group prod: share 3 -> 1", "- owner alice of prod: share 1.5 -> 1", "- group user: share 1 -> 1",
        "- limit merges",
    ]  # fmt: skip
    assert json.loads(said("policy", "show", "--json"))["policy"]["limits"] == []


def test_warnings_of_a_policy_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("policy.yaml").write_text(POLICY)
    assert run(["policy", "apply", "policy.yaml"]) == 0
    assert "penstock: warning: shares: there is no group prod yet" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("shares: {groups: {prod: {share: -3}}}", "shares.groups.prod.share: Input should be greater than or equal to"),
        ("limits: [{name: x, max_running: 1}]", "limits.0: limit x selects nothing; say which jobs it is about"),
        ("limits: [{name: x, max_running: -1, owner: a}]", "limits.0.max_running: Input should be greater than or"),
        ("colour: red", "colour: unknown field"),
        (
            f"limits: [{{name: x, max_running: 1, label: {'l' * 10_000}}}]",
            "limits.0.label: String should match pattern",
        ),
        ("- no mapping", "it must be a mapping of fields, not a list"),
    ],
    ids=["share", "selectors", "maximum", "field", "long", "list"],
)
def test_a_policy_that_makes_no_sense_is_refused_in_one_line(said: Say, content: str, reason: str) -> None:
    Path("policy.yaml").write_text(content)
    line = said("policy", "apply", "policy.yaml", expect=2)
    assert line.startswith(f"penstock: policy.yaml: {reason}")
    assert len(line) < 500


def test_shares_and_limits_are_tables_in_a_pipe_and_json_on_demand(said: Say, api: RunningApi) -> None:
    building.site(api.database, f"A-{api.vo}", vos=[api.vo], running=5)
    person(api.database, api.vo, "alice")
    Path("policy.yaml").write_text(POLICY)
    said("policy", "apply", "policy.yaml")
    head, group, owner = rows(said("shares"))
    assert head == ["GROUP", "OWNER", "SHARE", "ENTITLED", "PART", "USAGE", "CHARGED", "SETTLED", "USED"]
    assert group == ["prod", "(all)", "3", "100.0%", "0.0%", "0.00h", "0.00h", "0.00h", "0.00h"]
    assert owner[:4] == ["prod", "alice", "1.5", "100.0%"]
    head, site, rule = rows(said("limits"))
    assert head == ["NAME", "KIND", "ABOUT", "MAXIMUM", "RUNNING", "FREE", "PER"]
    assert site == [f"A-{api.vo}", "site", f"site=A-{api.vo}", "5", "0", "5", "-"]
    assert rule == ["merges", "rule", "job_type=Merge", "1", "0", "1", "-"]
    assert json.loads(said("shares", "--json"))["items"][1]["owner"] == "alice"
    assert [item["free"] for item in json.loads(said("limits", "--json"))["items"]] == [5, 1]


def test_why_a_job_waits_is_a_page(said: Say, api: RunningApi) -> None:
    small = building.site(api.database, f"A-{api.vo}", vos=[api.vo])
    (job,) = waiting(
        api.database, person(api.database, api.vo), requirements={"cores": 8, "memory": {"overhead": 10, "per_core": 5}}
    )
    lines = said("jobs", "why", str(job)).splitlines()
    assert lines[0].startswith(f"job {job}: waiting since ")
    assert lines[1] == "  no site queue of your VO fits it; see below what each lacks"
    assert "charged to  owner alice of group prod" in lines
    assert any(line.startswith("wants       cores=8 memory={overhead: 10, per_core: 5} disk=1024") for line in lines)
    assert any(line.startswith("its turn    group prod is 1st of 1; owner alice is 1st of 1 in it") for line in lines)
    assert lines[-1].split() == f"{small.name} local no - 0 0 wants cores 8, has 4".split()
    assert json.loads(said("jobs", "why", str(job), "--json"))["queues"][0]["missing"] == ["wants cores 8, has 4"]
    assert said("jobs", "why", "999999", expect=2).startswith("penstock: there is no job 999999 in your VO")


def node_file(**words: Any) -> str:
    Path("node.yaml").write_text(yaml.safe_dump({**NODE, **words}))
    return "node.yaml"


def test_what_a_node_would_get_is_told_with_what_is_passed_over_and_what_does_not_suit(
    said: Say, api: RunningApi
) -> None:
    at = building.site(api.database, f"A-{api.vo}", vos=[api.vo])
    alice = person(api.database, api.vo)
    first = waiting(api.database, alice, 3, requirements={"cores": 2})
    waiting(api.database, alice, requirements={"tags": ["gpu"]})
    file = node_file(site=at.name)
    lines = said("match", "--resource", file).splitlines()
    assert lines[0] == f"2 jobs for an empty node at {at.name}, on 4 cores"
    assert lines[2].split()[:2] == ["2", str(first[0])]
    assert lines[lines.index("passed over:") + 2].split()[4] == str(first[2])
    assert lines[-1].split()[-2:] == ["lacks", "gpu"]
    assert json.loads(said("match", "--resource", file, "--jobs", "1", "--json"))["jobs"] == 1


def test_when_nothing_waits_a_node_is_told_so(said: Say, api: RunningApi) -> None:
    at = building.site(api.database, f"A-{api.vo}", vos=[api.vo])
    assert said("match", "--resource", node_file(site=at.name)).splitlines() == [
        f"0 jobs for an empty node at {at.name}", "  no job of your VO waits",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"cores": -1}, "cores: Input should be greater than or equal to 1"),
        ({"colour": "red"}, "colour: unknown field"),
        ({"tags": ["t" * 10_000]}, "tags.0: String should match pattern"),
        ({"wall_time": 10**12}, "wall_time: Input should be less than or equal to"),
    ],
    ids=["negative", "field", "long", "huge"],
)
def test_a_node_that_makes_no_sense_is_refused_in_one_line(said: Say, words: dict[str, Any], reason: str) -> None:
    line = said("match", "--resource", node_file(**words), expect=2)
    assert line.startswith(f"penstock: node.yaml: {reason}")
    assert len(line) < 500


def test_a_node_at_a_site_that_there_is_not_is_refused(said: Say) -> None:
    assert "there is no site 'NOWHERE'" in said("match", "--resource", node_file(site="NOWHERE"), expect=2)
    assert "No such file" in said("match", "--resource", "missing.yaml", expect=2)
