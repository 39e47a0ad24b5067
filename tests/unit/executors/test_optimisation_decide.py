"""The pure part of optimisation: one decision for every job, whatever the chain says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.optimisation.chain import Candidate, Failed, Held, Killed, Verdict, judge, load_chain, narrowed
from executors.optimisation.decide import Asleep, Ignored, decide, wanted_facts
from executors.optimisation.input_data import locate
from executors.optimisation.placement import place
from executors.optimisation.sanity import check, template_problem
from pipeline.errors import BadSettings
from pipeline.store.jobs import JobRow
from pipeline.store.optimisation import Facts, StepFiles, StepFilesKey
from pipeline.store.specs import Spec
from schemas.campaign import Step
from schemas.placement import QueueOffer, queue_offer, unplaceable
from schemas.requirements import Requirement, Resource, fits
from schemas.sites import SiteQueueEntry
from schemas.states import JobState
from tests.unit.wishes import nodes, wishes

CHAIN = (check, locate, place)
SITES = ("A", "B", "C")


def _spec(**fields: object) -> Spec:
    template = Step.model_validate({"name": "a", "command": ["true"], **fields})
    return Spec(id=1, step_id=1, template=template, sandbox=None, campaign_id=1, campaign="c", owner_id=1, group_id=1)


def _job(job_id: int = 1, *, state: JobState = JobState.RECEIVED, kill: bool = False, step_id: int = 1) -> JobRow:
    return JobRow(
        id=job_id,
        vo_id=1,
        campaign_id=1,
        step_id=step_id,
        spec_id=1,
        array_index=0,
        state=state,
        attempt=0,
        priority=0,
        pilot_id=None,
        site_id=None,
        autocluster_id=None,
        kill_requested=kill,
        absences=0,
        infrastructure_losses=0,
        payload_failures=0,
    )


def _offer(site: str, *, banned: bool = False, **entry: object) -> QueueOffer:
    fields = {"name": "local", "cores": 4, "wall_time": 86_400, **entry}
    return queue_offer(site, SiteQueueEntry.model_validate(fields), margin=300, banned=banned)


jobs = st.builds(
    lambda state, kill, step_id: (state, kill, step_id),
    st.sampled_from([JobState.RECEIVED, JobState.RECEIVED, *JobState]),
    st.booleans(),
    st.integers(1, 2),
)
offers = st.lists(st.builds(_offer, st.sampled_from(SITES), banned=st.booleans(), cores=st.integers(1, 8)), max_size=4)
inputs = st.sets(st.sampled_from(["/x", "/y"])).map(sorted)
catalogue = st.dictionaries(st.sampled_from([(1, "/x"), (1, "/y")]), st.frozensets(st.sampled_from(SITES)))

small_wishes = st.fixed_dictionaries({"cores": st.integers(1, 8), "sites": st.sets(st.sampled_from(SITES)).map(sorted)})


@given(st.lists(jobs, max_size=12), offers, inputs, catalogue, small_wishes)
def test_no_job_is_lost_and_what_goes_on_can_run_somewhere(
    described: list[tuple[JobState, bool, int]],
    offered: list[QueueOffer],
    names: list[str],
    found_files: dict[tuple[int, str], frozenset[str]],
    wishes: dict[str, object],
) -> None:
    spec = _spec(inputs=names, requirements=wishes)
    batch = [_job(n, state=s, kill=kill, step_id=step_id) for n, (s, kill, step_id) in enumerate(described, 1)]
    facts = Facts(offers={1: tuple(offered)}, files=found_files)
    decisions = decide(CHAIN, facts, batch, {1: spec}, frozenset({1}))
    assert [job for job, _ in decisions] == batch
    for job, decision in decisions:
        if job.state is not JobState.RECEIVED:
            assert decision == Ignored()
        elif job.kill_requested:
            assert isinstance(decision, Killed)
        elif job.step_id == 2:
            assert decision == Asleep()
        elif isinstance(decision, Candidate):
            requirement = spec.template.requirements
            wanted = requirement if decision.sites is None else narrowed(requirement, decision.sites)
            assert wanted is not None
            assert any(fits(wanted, offer.resource) and not offer.banned for offer in offered)
            for name in names:
                at = found_files[1, name]
                assert set(wanted.sites or {offer.resource.site for offer in offered}) <= at
        else:
            assert isinstance(decision, Held)
            assert decision.reason


@given(st.lists(st.sampled_from(["go", "hold", "fail"]), max_size=9))
def test_a_verdict_ends_the_chain_for_its_job_alone(words: list[str]) -> None:
    def first(_: Facts, candidates: Sequence[Candidate]) -> list[Verdict]:
        ends: dict[str, Verdict] = {"hold": Held("h"), "fail": Failed("f")}
        return [ends.get(words[candidate.job.id], candidate) for candidate in candidates]

    seen: list[int] = []

    def second(_: Facts, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        seen.extend(candidate.job.id for candidate in candidates)
        return candidates

    candidates = [Candidate(_job(number), _spec()) for number in range(len(words))]
    verdicts = judge((first, second), Facts(), candidates)
    assert list(verdicts) == list(range(len(words)))
    assert seen == [number for number, word in enumerate(words) if word == "go"]


def test_an_optimiser_that_loses_a_job_is_an_error() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        judge((lambda _facts, _candidates: [],), Facts(), [Candidate(_job(), _spec())])


def test_the_declared_chain_is_found_and_a_wrong_name_is_told() -> None:
    assert load_chain(("sanity", "input_data", "placement")) == CHAIN
    with pytest.raises(BadSettings, match="no optimiser is named 'magic'; there are input_data, placement, sanity"):
        load_chain(("magic",))


def test_a_template_that_cannot_be_filled_in_fails() -> None:
    sound = _spec(command=["run", "{index}"])
    assert template_problem(sound.template) is None
    stray = sound.template.model_copy(update={"command": ("run", "{index")})
    unknown = sound.template.model_copy(update={"command": ("run", "{n}")})
    assert template_problem(stray) == "stray '{' in '{index'; write it twice to mean itself"
    assert template_problem(unknown) == "unknown parameter {n} in '{n}'"


def test_files_are_asked_for_as_the_job_names_them() -> None:
    spec = _spec(inputs=["/{campaign}/{index}", {"step": "b", "name": "x"}], after=["b"])
    wanted = wanted_facts([_job()], {1: spec})
    assert wanted.files == {(1, "/c/0")}
    assert wanted.step_files == {StepFilesKey(1, "b", "x")}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (StepFiles(0, None, frozenset()), "input data not available: outputs of step b"),
        (StepFiles(2, "/lost", frozenset("A")), "input data not available: /lost"),
        (
            StepFiles(2, None, frozenset()),
            "input data not available: no site has outputs of step b together with the other inputs",
        ),
    ],
)
def test_outputs_that_are_not_all_there_hold_the_job(found: StepFiles, reason: str) -> None:
    spec = _spec(inputs=[{"step": "b"}], after=["b"])
    facts = Facts(step_files={StepFilesKey(1, "b"): found})
    assert locate(facts, [Candidate(_job(), spec)]) == [Held(reason)]


def test_sites_that_narrow_nothing_are_forgotten() -> None:
    facts = Facts(offers={1: (_offer("A"), _offer("B"))})
    everywhere = Candidate(_job(), _spec(), frozenset("ABC"))
    narrow = Candidate(_job(), _spec(), frozenset("AC"))
    assert [v.sites for v in place(facts, [everywhere, narrow]) if isinstance(v, Candidate)] == [None, frozenset("AC")]


def test_the_reason_names_the_queue_that_comes_closest() -> None:
    wanted = Requirement(cores=8, memory=100)
    near, far = _offer("A", cores=2), _offer("B", cores=2, memory=10)
    assert unplaceable(wanted, [far, near], "user") == "no site can run it: A/local wants cores 8, has 2"
    assert unplaceable(wanted, [near, _offer("C", cores=8, banned=True)], "user") == (
        "no site can run it: C/local would, but is banned"
    )
    assert unplaceable(wanted, [near, _offer("C", cores=8)], "user") is None
    elsewhere = Requirement(sites=("X",))
    assert unplaceable(elsewhere, [near], "user") == "no site can run it: no site queue of this VO is at X"


def test_a_queue_in_test_mode_takes_one_type_of_jobs_alone() -> None:
    tested = replace(_offer("A"), only_job_type="test")
    assert unplaceable(Requirement(), [tested], "test") is None
    assert unplaceable(Requirement(), [tested], "user") == (
        "no site can run it: A/local would, but is in test mode: it takes jobs of type test alone"
    )
    assert unplaceable(Requirement(), [tested, _offer("B")], "user") is None
    facts = Facts(offers={1: (tested,)})
    both = [Candidate(_job(1), _spec(job_type="test")), Candidate(_job(2), replace(_spec(job_type="user"), id=2))]
    assert [type(verdict) for verdict in place(facts, both)] == [Candidate, Held]


def test_narrowing_the_sites_narrows_every_alternative_and_keeps_its_number() -> None:
    wanted = Requirement.model_validate(
        {"sites": ["A", "B"], "any_of": [{"cores": 2}, {"sites": ["C"]}, {"banned_sites": ["A"], "sites": []}]}
    )
    kept = narrowed(wanted, frozenset("AD"))
    assert kept is not None
    assert [one.min_cores for one in kept.specifications()] == [2, 1, 1]
    for site, alternative in {"A": 0, "B": None, "C": None, "D": 2}.items():
        fit = fits(kept, _offer(site).resource)
        assert (fit.alternative if fit else None) == alternative
    assert narrowed(Requirement(sites=("A",)), frozenset("B")) is None
    assert narrowed(wanted.model_copy(update={"any_of": wanted.any_of[:2]}), frozenset("D")) is None


@given(wishes, nodes, st.frozensets(st.sampled_from(SITES), min_size=1))
def test_a_narrowed_requirement_fits_where_it_did_at_those_sites_alone(
    wish: dict[str, Any], node: dict[str, Any], sites: frozenset[str]
) -> None:
    wanted, resource = Requirement.model_validate(wish), Resource.model_validate(node)
    kept = narrowed(wanted, sites)
    before, after = fits(wanted, resource), kept is not None and fits(kept, resource)
    assert bool(after) == (bool(before) and resource.site in sites)
    assert not after or after.alternative == before.alternative


def test_a_job_that_wants_all_of_a_queue_s_wall_time_would_never_start_and_is_held() -> None:
    assert unplaceable(Requirement(wall_time=86_400), [_offer("A")], "user") == (
        "no site can run it: A/local wants wall_time 86400 s, has 86040 s"
    )
