"""What every batch system must do, over each real one."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from executors.pilots.port import BATCH_ENDED, OUTPUT_LIMIT, BatchState, BatchSystem, PilotRequest
from executors.pilots.program import SECRET_FILE, TAG, PilotProgram
from pipeline.errors import BatchSystemUnavailable
from tests.conformance.arc_site import ArcSite
from tests.conformance.batch_site import PATIENCE, BatchSite, Tags, answered, open_queue, own_tags, requests, shell
from tests.conformance.htcondor_site import HtcondorSite
from tests.conformance.local_site import LocalSite
from tests.conformance.slurm_site import SlurmSite
from tests.waiting import eventually

SITES: Mapping[str, Callable[[pytest.FixtureRequest, Path], BatchSite]] = {
    "local": lambda _, folder: LocalSite(folder),
    "slurm": lambda request, folder: SlurmSite(request.getfixturevalue("slurm_server"), folder),
    "slurm-ssh": lambda request, folder: SlurmSite(
        request.getfixturevalue("slurm_server"), folder, request.getfixturevalue("login_node")
    ),
    "arc": lambda request, folder: ArcSite(request.getfixturevalue("arex_server"), folder),
    "htcondor": lambda request, folder: HtcondorSite(request.getfixturevalue("htcondor_pool"), folder),
}
QUEUEING = tuple(name for name in SITES if name != "local")
"""Those where a pilot may wait; the local one starts it or refuses it."""
SLEEP = "echo $$ > {notes}/$PENSTOCK_PILOT_TAG.pid; sleep 600"
NOTE = "echo $PENSTOCK_PILOT_TAG >> {notes}/ran"


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> BatchSite:
    """Each in turn."""
    return SITES[request.param](request, tmp_path)


@pytest.fixture
def tags(site: BatchSite) -> Iterator[Tags]:
    """Makes tags that no other test has; their pilots are removed in the end."""
    with own_tags(site) as new:
        yield new
        site.fill(full=False)


def program(site: BatchSite, text: str) -> PilotProgram:
    """A pilot that runs a script, in which {notes} is where it may write."""
    return shell(text.replace("{notes}", str(site.notes)))


def gone(system: BatchSystem, tags: Sequence[str]) -> None:
    """Waits until these pilots have ended, or nothing is known of them."""
    eventually(lambda: all(a.state in BATCH_ENDED for a in system.poll(tags).values()), within=PATIENCE, every=0.2)


def process(site: BatchSite, tag: str) -> psutil.Process:
    """The process of a pilot that runs SLEEP, once it has said so."""
    note = site.notes / f"{tag}.pid"
    return psutil.Process(int(eventually(lambda: note.read_text().strip() if note.exists() else "", within=PATIENCE)))


def ran(site: BatchSite) -> list[str]:
    """The tags of the pilots that ran NOTE, once for each time."""
    note = site.notes / "ran"
    return sorted(note.read_text().split()) if note.exists() else []


def test_twenty_pilots_are_followed_to_their_end_and_their_output_is_brought(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(20)
    taken = system.submit(requests(mine), program(site, f"echo hello; echo sorry >&2; {NOTE}"))
    assert sorted(taken) == mine
    assert len({submission.handle for submission in taken.values()}) == 20
    answers = answered(system, mine, BATCH_ENDED)
    assert {(answer.state, answer.exit_code) for answer in answers.values()} == {(BatchState.DONE, 0)}
    assert {tag: answer.handle for tag, answer in answers.items()} == {tag: taken[tag].handle for tag in mine}
    outputs = system.fetch_output(mine)
    assert sorted(outputs) == mine
    assert {output.stdout for output in outputs.values()} == {"hello\n"}
    assert all("sorry" in output.stderr.splitlines() for output in outputs.values())
    assert ran(site) == mine


def test_a_failed_pilot_tells_its_exit_code_and_the_end_of_its_output(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(1)
    lines = OUTPUT_LIMIT // 8 + 1_000
    system.submit(requests(mine), program(site, f"seq -f %07.0f {lines}; echo wrong >&2; exit 7"))
    answer = answered(system, mine, BATCH_ENDED)[mine[0]]
    assert (answer.state, answer.exit_code) == (BatchState.FAILED, 7)
    assert "7" in answer.reason
    output = system.fetch_output(mine)[mine[0]]
    assert len(output.stdout) == OUTPUT_LIMIT
    assert output.stdout.endswith(f"{lines:07}\n")
    assert "wrong" in output.stderr.splitlines()


def test_what_nobody_has_submitted_is_left_out(site: BatchSite, tags: Tags) -> None:
    system = open_queue(site)
    [known, unknown] = tags(2)
    assert dict(system.poll([unknown])) == {}
    assert dict(system.fetch_output([unknown])) == {}
    system.remove([unknown])
    system.submit(requests([known]), program(site, SLEEP))
    assert set(system.poll([unknown, known])) == {known}
    process(site, known)
    system.remove([unknown])
    assert answered(system, [known], {BatchState.RUNNING})
    assert set(system.fetch_output([unknown, known])) <= {known}


def test_a_tag_that_is_submitted_again_is_one_pilot(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(2)
    pilot = program(site, NOTE)
    first = system.submit(requests([mine[0], mine[0]]), pilot)
    again = system.submit(requests(mine), pilot)
    assert again[mine[0]] == first[mine[0]]
    answered(system, mine, BATCH_ENDED)
    assert sorted(open_queue(site).submit(requests(mine), pilot)) == mine
    answered(system, mine, BATCH_ENDED)
    assert ran(site) == mine


def test_running_pilots_are_removed_even_if_they_ignore_sigterm_and_others_stay(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(3)
    polite, deaf, stays = mine
    system.submit(requests([polite, stays]), program(site, SLEEP))
    system.submit(requests([deaf]), program(site, f"trap '' TERM; {SLEEP}"))
    processes = {tag: process(site, tag) for tag in mine}
    answered(system, mine, {BatchState.RUNNING})
    system.remove([polite, deaf])
    gone(system, [polite, deaf])
    eventually(lambda: not processes[polite].is_running() and not processes[deaf].is_running(), within=PATIENCE)
    assert processes[stays].is_running()
    assert system.poll([stays])[stays].state is BatchState.RUNNING


def test_a_pilot_is_removed_right_after_its_submission(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(3)
    system.submit(requests(mine), program(site, f"sleep 30; {NOTE}; sleep 600"))
    system.remove(mine)
    gone(system, mine)
    assert ran(site) == []


def test_a_pilot_that_has_ended_is_forgotten_by_its_removal_and_not_started_again(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(2)
    system.submit(requests(mine), program(site, f"echo hello; {NOTE}"))
    answered(system, mine, BATCH_ENDED)
    system.remove(mine[:1])
    gone(system, mine)
    assert set(system.fetch_output(mine)) == {mine[1]}
    assert ran(site) == mine


def test_more_than_a_full_site_takes_waits_or_is_refused_and_all_run_once_in_the_end(
    site: BatchSite, tags: Tags
) -> None:
    mine, pilot = tags(8), program(site, NOTE)
    site.fill(full=True)
    system = open_queue(site)
    taken = system.submit(requests(mine), program(site, f"{NOTE}; [ {site.kind} != local ] || sleep 600"))
    assert taken
    refused = sorted(set(mine) - set(taken))
    assert set(system.poll(mine)) == set(taken)
    if refused:
        with pytest.raises(BatchSystemUnavailable):
            system.submit(requests(refused), pilot)
    else:
        assert {answer.state for answer in system.poll(mine).values()} == {BatchState.QUEUED}
    assert not set(ran(site)) & set(refused)
    site.fill(full=False)
    system = open_queue(site)
    assert sorted(system.submit(requests(mine), pilot)) == mine
    eventually(lambda: ran(site) == mine, within=PATIENCE)


@pytest.mark.parametrize("site", QUEUEING, indirect=True)
def test_queued_and_held_pilots_are_removed_and_never_run(site: BatchSite, tags: Tags) -> None:
    queued, held, stays = mine = tags(3)
    site.fill(full=True)
    system = open_queue(site)
    system.submit(requests(mine), program(site, NOTE))
    answered(system, mine, {BatchState.QUEUED})
    site.hold(system, held)
    answered(system, [held], {BatchState.HELD})
    system.remove([queued, held])
    site.fill(full=False)
    gone(system, mine)
    assert ran(site) == [stays]


def test_a_held_pilot_says_why_and_is_released_by_its_submission(site: BatchSite, tags: Tags) -> None:
    held, other = mine = tags(2)
    pilot = program(site, f"{NOTE}; [ {site.kind} != local ] || until [ -e {{notes}}/go ]; do sleep 0.1; done")
    site.fill(full=True)
    system = open_queue(site)
    system.submit(requests(mine), pilot)
    site.hold(system, held)
    assert answered(system, [held], {BatchState.HELD})[held].reason
    assert system.poll([other])[other].state is not BatchState.HELD
    site.fill(full=False)
    system = open_queue(site)
    assert sorted(system.submit(requests(mine), pilot)) == mine
    (site.notes / "go").touch()
    answers = answered(system, mine, BATCH_ENDED)
    assert {answer.state for answer in answers.values()} == {BatchState.DONE}
    assert ran(site) == mine


def test_a_server_that_is_down_is_unavailable_and_knows_everything_again_when_it_is_back(
    site: BatchSite, tags: Tags
) -> None:
    system = open_queue(site)
    [running, ended, new] = mine = tags(3)
    pilot = program(site, f'[ "${TAG}" = {ended} ] || {{ {SLEEP}; }}')
    system.submit(requests([running, ended]), pilot)
    answered(system, [running], {BatchState.RUNNING})
    answered(system, [ended], BATCH_ENDED)
    alive = process(site, running)
    impatient = open_queue(site, timeout=1)
    site.down()
    try:
        with pytest.raises(BatchSystemUnavailable):
            impatient.poll(mine)
        with pytest.raises(BatchSystemUnavailable):
            impatient.submit(requests([new]), pilot)
        with pytest.raises(BatchSystemUnavailable):
            impatient.remove([running])
    finally:
        site.up()
    assert alive.is_running()
    assert set(system.poll(mine)) == {running, ended}
    answered(system, [running], {BatchState.RUNNING})
    assert system.poll([ended])[ended].state in BATCH_ENDED
    assert new in system.submit(requests([new]), pilot)


def test_a_pilot_gets_its_tag_its_secret_its_files_and_an_empty_folder(site: BatchSite, tags: Tags) -> None:
    system, [tag] = open_queue(site), tags(1)
    text = f"""
        echo "${TAG}"; cat "${SECRET_FILE}"; echo; stat -c %a "${SECRET_FILE}"
        cat beside.txt; ls -A "$PENSTOCK_PILOT_WORKDIR" | wc -l; touch "$PENSTOCK_PILOT_WORKDIR/mine" && echo done
        id -u; stat -c %u "${SECRET_FILE}"; wc -c < zeros.bin; env | sed -n 's/^PENSTOCK_\\([A-Z_]*\\)=.*/\\1/p' | sort
        """
    files = {"program.sh": text.encode(), "beside.txt": b"beside\n", "zeros.bin": bytes(100_000)}
    system.submit([PilotRequest(tag, 'it\'s a "secret"')], PilotProgram(files, ("/bin/sh", "program.sh")))
    answered(system, [tag], {BatchState.DONE})
    lines = system.fetch_output([tag])[tag].stdout.splitlines()
    assert lines[:2] == [tag, 'it\'s a "secret"']
    assert stat.S_IMODE(int(lines[2], 8)) & 0o077 == 0
    assert lines[3:6] == ["beside", "0", "done"]
    assert lines[6] == lines[7]
    assert lines[8] == "100000"
    assert lines[9:] == ["PILOT_SECRET_FILE", "PILOT_TAG", "PILOT_WORKDIR"]


def test_a_secret_is_on_no_command_line_and_in_no_environment(site: BatchSite, tags: Tags) -> None:
    system, mine = open_queue(site), tags(2)
    secret, seen, over = "a-secret-of-pilots", set[Path](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            for file in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
                try:
                    if secret.encode() in file.read_bytes():
                        seen.add(file)
                except OSError:  # it has ended
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        system.submit([PilotRequest(tag, secret) for tag in mine], program(site, SLEEP))
        for tag in mine:
            assert process(site, tag).is_running()
        answered(system, mine, {BatchState.RUNNING})
    finally:
        over.set()
        watcher.join()
    assert seen == set()
