"""What is ARC's own: credentials, delegation, submissions that were cut short, limits and descriptions of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from executors.pilots.batch.arc_description import describe
from executors.pilots.batch.arc_options import ArcOptions
from executors.pilots.batch.arc_rest import ArcRest, conversation
from executors.pilots.batch.credentials import CredentialKind, CurrentCredential
from executors.pilots.port import BATCH_ENDED, BatchState, BatchSystem
from pipeline.errors import BadSettings, BatchSystemUnavailable
from schemas.sites import SiteQueueEntry
from tests.arex import TOKEN_SUBJECT, ArexServer
from tests.certificates import Authority
from tests.conformance.arc_site import ArcSite
from tests.conformance.batch_site import Tags, answered, open_kind, open_queue, own_tags, requests, shell
from tests.waiting import eventually

SLEEP = shell("sleep 600")


@pytest.fixture
def site(arex_server: ArexServer, tmp_path: Path) -> ArcSite:
    return ArcSite(arex_server, tmp_path)


@pytest.fixture
def tags(site: ArcSite) -> Iterator[Tags]:
    with own_tags(site) as new:
        yield new


@pytest.fixture
def rest(arex_server: ArexServer, site: ArcSite) -> Iterator[ArcRest]:
    """A conversation of our own with it."""
    credential = CurrentCredential(arex_server.user.pem, None)
    options = ArcOptions.model_validate(site.options)
    with conversation("SITE.queue", options, CredentialKind.PROXY, credential) as opened:
        yield opened


def by_token(site: ArcSite, **how: object) -> BatchSystem:
    return open_queue(site, proxy_file=None, **how)


def cut_short(site: ArcSite, rest: ArcRest, tags: list[str]) -> list[str]:
    """What a submitter leaves that was killed before it uploaded anything: the ids of the jobs."""
    options = ArcOptions.model_validate(site.options)
    made = rest.create(describe(tags, SiteQueueEntry(name="queue"), options, None), len(tags))
    return [verdict.id for verdict in made]


def test_a_token_from_a_file_or_a_command_opens_it(arex_server: ArexServer, site: ArcSite, tags: Tags) -> None:
    mine = tags(1)
    file = arex_server.write_secret("token", arex_server.issuer.token(TOKEN_SUBJECT))
    for system in by_token(site, token_file=str(file)), by_token(site, token_command=f"cat {file}"):
        taken = system.submit(requests(mine), SLEEP)
        assert taken[mine[0]].ends_at is None
        assert taken[mine[0]].handle == system.poll(mine)[mine[0]].handle
    system.remove(mine)
    eventually(lambda: all(answer.state in BATCH_ENDED for answer in system.poll(mine).values()))
    system.remove(mine)
    eventually(lambda: not system.poll(mine))


def test_a_token_of_somebody_else_is_refused_with_its_words_and_without_the_token(
    arex_server: ArexServer, site: ArcSite
) -> None:
    token = arex_server.issuer.token("stranger")
    system = by_token(site, token_file=str(arex_server.write_secret("stranger", token)))
    for call in (
        lambda: system.poll(["a"]),
        lambda: system.submit(requests(["a"]), SLEEP),
        lambda: system.remove(["a"]),
    ):
        with pytest.raises(
            BatchSystemUnavailable, match=r"queue SITE.queue: A-REX at https://localhost.*403 "
        ) as caught:
            call()
        assert token not in str(caught.value)


def test_users_of_a_token_and_of_a_certificate_do_not_see_each_others_pilots(
    arex_server: ArexServer, site: ArcSite, tags: Tags
) -> None:
    mine = tags(1)
    file = arex_server.write_secret("token", arex_server.issuer.token(TOKEN_SUBJECT))
    open_queue(site).submit(requests(mine), SLEEP)
    assert set(open_queue(site).poll(mine)) == set(mine)
    assert dict(by_token(site, token_file=str(file)).poll(mine)) == {}


def test_a_server_of_another_authority_is_not_talked_to(site: ArcSite, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "Other")
    for how in {"ca_dir": str(other.folder)}, {"ca_file": str(other.file), "ca_dir": None}, {"ca_dir": None}:
        with pytest.raises(BatchSystemUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            open_queue(site, **how).poll(["a"])
    with pytest.raises(BatchSystemUnavailable, match="certificates of it or of its authorities"):
        open_queue(site, ca_file=str(tmp_path / "nothing")).poll(["a"])


def test_a_server_that_hangs_is_given_up(arex_server: ArexServer, site: ArcSite) -> None:
    system = open_queue(site, timeout=0.5)
    arex_server.freeze()
    try:
        with pytest.raises(BatchSystemUnavailable, match="timed out"):
            system.poll(["a"])
    finally:
        arex_server.thaw()
    assert dict(open_queue(site).poll(["a"])) == {}


def test_a_submission_that_was_cut_short_is_unknown_and_completed_by_the_next_one(
    site: ArcSite, rest: ArcRest, tags: Tags
) -> None:
    system, mine = open_queue(site), tags(3)
    bare = cut_short(site, rest, mine)
    double = cut_short(site, rest, mine[:1])
    assert dict(system.poll(mine)) == {}
    assert dict(system.fetch_output(mine)) == {}
    note = site.notes / "ran"
    taken = system.submit(requests(mine), shell(f"echo $PENSTOCK_PILOT_TAG >> {note}"))
    assert taken[mine[0]].handle in {bare[0], *double}
    assert [taken[tag].handle for tag in mine[1:]] == bare[1:]
    answered(system, mine, {BatchState.DONE})
    assert sorted(note.read_text().split()) == mine
    eventually(lambda: {bare[0], *double} & set(rest.job_ids()) == {taken[mine[0]].handle}, within=60)


def test_what_a_submission_that_was_cut_short_left_can_be_removed(site: ArcSite, rest: ArcRest, tags: Tags) -> None:
    mine = tags(2)
    bare = cut_short(site, rest, mine)
    open_queue(site).remove(mine)
    eventually(lambda: not set(bare) & set(rest.job_ids()), within=60)


def test_a_job_that_ended_before_its_script_came_is_no_pilot_and_replaced(
    site: ArcSite, rest: ArcRest, tags: Tags
) -> None:
    system, mine = open_queue(site), tags(1)
    [bare] = cut_short(site, rest, mine)
    rest.act("kill", [bare])
    eventually(lambda: rest.states()[bare] in {"FAILED", "KILLED"}, within=60)
    assert dict(system.poll(mine)) == {}
    assert system.submit(requests(mine), SLEEP)[mine[0]].handle != bare
    assert set(system.poll(mine)) == set(mine)
    eventually(lambda: bare not in rest.job_ids(), within=60)


def test_a_drained_element_refuses_new_pilots_with_its_words_and_knows_the_others(
    arex_server: ArexServer, site: ArcSite, tags: Tags
) -> None:
    system, mine = open_queue(site), tags(2)
    taken = system.submit(requests(mine[:1]), SLEEP)
    arex_server.take(new=False)
    try:
        assert dict(system.submit(requests(mine), SLEEP)) == dict(taken)
        with pytest.raises(BatchSystemUnavailable, match=r"took no pilot: 500 New job submission is not allowed"):
            system.submit(requests(mine[1:]), SLEEP)
    finally:
        arex_server.take(new=True)
    assert set(system.submit(requests(mine), SLEEP)) == set(mine)


def test_a_description_that_it_does_not_like_is_refused_with_its_words(site: ArcSite, tags: Tags) -> None:
    with pytest.raises(BatchSystemUnavailable, match=r"took no pilot: .*nowhere"):
        open_queue(site, queue="nowhere").submit(requests(tags(1)), SLEEP)


def test_pilots_get_a_delegated_proxy_only_where_the_queue_asks_for_it(
    arex_server: ArexServer, site: ArcSite, tags: Tags
) -> None:
    proxy = arex_server.user.proxy(timedelta(hours=2))
    file = arex_server.write_secret("proxy.pem", proxy.pem)
    [plain, delegated] = mine = tags(2)
    assert open_queue(site, proxy_file=str(file)).submit(requests([plain]), SLEEP)[plain].ends_at is None
    system = open_queue(site, proxy_file=str(file), delegate=True)
    first = system.submit(requests([delegated]), shell('openssl x509 -in "$X509_USER_PROXY" -noout -subject'))
    assert first[delegated].ends_at == proxy.ends_at
    assert system.submit(requests(mine), SLEEP)[delegated] == first[delegated]
    answered(system, [delegated], {BatchState.DONE})
    lines = system.fetch_output([delegated])[delegated].stdout
    assert lines.count("CN = ") == 3  # the user, our proxy, and that of the element


def test_a_delegation_is_renewed_before_it_ends(
    arex_server: ArexServer, site: ArcSite, rest: ArcRest, tags: Tags
) -> None:
    mine = tags(1)
    file = arex_server.write_secret("proxy.pem", arex_server.user.proxy(timedelta(hours=2)).pem)
    system = open_queue(site, proxy_file=str(file), delegate=True)
    job = system.submit(requests(mine), SLEEP)[mine[0]].handle
    [name] = rest.delegations([job])

    def held() -> str:
        return rest.request("POST", f"delegations/{name}", params={"action": "get"}).text

    first = held()
    arex_server.write_secret("proxy.pem", arex_server.user.proxy(timedelta(hours=3)).pem)
    system.poll(mine)
    assert held() == first  # more than half of three hours is left
    arex_server.write_secret("proxy.pem", arex_server.user.proxy(timedelta(hours=12)).pem)
    system.poll(mine)
    assert held() != first
    assert rest.delegations([job]) == {name}


def test_what_a_pilot_needs_is_asked_for_per_slot(arex_server: ArexServer, site: ArcSite, tags: Tags) -> None:
    measures = {"cores": 4, "memory": 8_190, "disk": 20_000, "wall_time": 7_200}
    options = {**site.options, "runtime_environments": ["ENV/PROXY"]}
    mine = tags(1)
    system = open_kind("arc", options, site.data_dir, **measures)
    job = system.submit(requests(mine), SLEEP)[mine[0]].handle
    asked = eventually(lambda: arex_server.control_file(job, "grami"), within=60)
    for line in ("count=4", "countpernode=4", "memory=2048", "disk=20000", "walltime=7200", "queue='fork'"):
        assert f"joboption_{line}\n" in asked
    assert "joboption_runtime_0='ENV/PROXY'\n" in asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "url: Field required"),
        ({"url": "http://ce.example.org/arex"}, "url: String should match"),
        ({"url": "https://ce.example.org/arex", "queu": "long"}, "queu: Extra inputs are not permitted"),
        ({"url": "https://ce.example.org/arex"}, "wants a token_... or a proxy_... option"),
        ({"url": "https://ce.example.org/arex", "token_file": "/t", "delegate": True}, "a token can't be delegated"),
        ({"url": "https://ce.example.org/arex", "token_file": "/t", "proxy_file": "/p"}, "exclude each other"),
        ({"url": "https://ce.example.org/arex", "token_file": "/t", "timeout": 0}, "timeout: Input should be greater"),
    ],
)
def test_options_that_make_no_sense_are_bad_settings(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"queue SITE\.queue: ") as caught:
        open_kind("arc", options, tmp_path)
    assert words in str(caught.value)


def test_a_job_of_several_nodes_is_refused(site: ArcSite, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="nodes must be 1"):
        open_kind("arc", site.options, tmp_path, nodes=2)
