"""What Slurm has and other batch systems have not: several nodes to a job, its own reasons, controllers that hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from executors.pilots.port import BATCH_ENDED, BatchState, BatchSystem, PilotRequest
from executors.pilots.program import PilotProgram
from pipeline.errors import BadSettings, BatchSystemUnavailable
from schemas.sites import SiteQueueEntry
from tests.conformance.batch_site import answered, new_tags, open_kind, requests, shell
from tests.servers import MariaDbServer
from tests.slurm import SlurmServer, running_slurm
from tests.sshd import SshServer
from tests.waiting import eventually


class Queue:
    """A queue of the private Slurm, whose pilots write to its folder."""

    def __init__(self, server: SlurmServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.options: dict[str, object] = {"conf": str(server.conf), "folder": str(folder / "output")}

    def open(self, *, nodes: int = 1, **options: object) -> BatchSystem:
        return open_kind("slurm", {**self.options, **options}, self.folder / "data", nodes=nodes)

    def sleeper(self) -> PilotProgram:
        """Notes its process and its node, and stays."""
        note = f"{self.folder}/$PENSTOCK_PILOT_TAG"
        return shell(f"echo $$ $SLURMD_NODENAME > {note}.new && mv {note}.new {note}; sleep 600")

    def started(self, tag: str) -> tuple[psutil.Process, str]:
        """The process and the node of a sleeper."""
        note = self.folder / tag
        eventually(note.exists, within=60)
        pid, node = note.read_text().split()
        return psutil.Process(int(pid)), node


@pytest.fixture
def queue(slurm_server: SlurmServer, tmp_path: Path) -> Iterator[Queue]:
    yield Queue(slurm_server, tmp_path)
    slurm_server.run("scancel", "--full", "--signal=KILL", "--name=penstock")
    slurm_server.run("scancel", "--name=penstock")


def test_a_batch_job_of_two_nodes_runs_a_pilot_on_each_and_each_may_go_alone(queue: Queue) -> None:
    system = queue.open(nodes=2)
    first, second, third, fourth, odd = mine = new_tags(5)
    taken = system.submit(requests(mine), queue.sleeper())
    assert set(taken) == set(mine) - {odd}
    jobs = {tag: taken[tag].handle.rpartition(".") for tag in taken}
    assert [jobs[tag][2] for tag in (first, second, third, fourth)] == ["0", "1", "0", "1"]
    assert jobs[first][0] == jobs[second][0] != jobs[third][0] == jobs[fourth][0]
    answers = answered(system, [first, second, third, fourth], {BatchState.RUNNING})
    assert {tag: answer.handle for tag, answer in answers.items()} == {tag: taken[tag].handle for tag in taken}
    processes = {tag: queue.started(tag) for tag in taken}
    assert {processes[first][1], processes[second][1]} == {processes[third][1], processes[fourth][1]} == {"n1", "n2"}

    system.remove([second, third, fourth])
    eventually(lambda: not any(processes[tag][0].is_running() for tag in (second, third, fourth)), within=60)
    assert processes[first][0].is_running()
    assert system.poll([first])[first].state is BatchState.RUNNING
    assert {a.state for a in answered(system, [third, fourth], {BatchState.FAILED}).values()} == {BatchState.FAILED}

    system.remove([first, second])
    eventually(lambda: system.poll([first])[first].state in BATCH_ENDED, within=60)
    assert not processes[first][0].is_running()


def test_a_batch_job_of_several_nodes_ends_with_the_worst_exit_code_and_each_pilot_has_its_output(queue: Queue) -> None:
    system = queue.open(nodes=2)
    good, _ = mine = new_tags(2)
    text = f'echo "from $PENSTOCK_PILOT_TAG"; [ $PENSTOCK_PILOT_TAG = {good} ] || exit 9'
    system.submit(requests(mine), shell(text))
    answers = answered(system, mine, {BatchState.FAILED})
    assert {answer.exit_code for answer in answers.values()} == {9}
    outputs = system.fetch_output(mine)
    assert {tag: output.stdout for tag, output in outputs.items()} == {tag: f"from {tag}\n" for tag in mine}


def test_a_pilot_whose_node_fails_or_whose_job_is_cancelled_says_so(queue: Queue) -> None:
    system, mine = queue.open(extra=["--nodelist=n2"]), new_tags(2)
    system.submit(requests(mine), queue.sleeper())
    processes = [queue.started(tag)[0] for tag in mine]
    handles = {tag: answer.handle for tag, answer in answered(system, mine, {BatchState.RUNNING}).items()}
    queue.server.run("scancel", handles[mine[0]])
    assert "cancelled" in answered(system, mine[:1], {BatchState.FAILED})[mine[0]].reason
    queue.server.fail_node("n2")
    try:
        answer = answered(system, mine[1:], {BatchState.FAILED})[mine[1]]
    finally:
        queue.server.mend_node("n2")
    assert answer.reason == "its node failed (Slurm: NODE_FAIL, NodeDown)"
    assert answer.exit_code is None
    eventually(lambda: not any(process.is_running() for process in processes), within=60)


SUBMITTER = """
import json, sys
from pathlib import Path
from executors.pilots.port import PilotRequest, QueueSettings, open_batch_system
from executors.pilots.program import PilotProgram
from schemas.sites import SiteQueueEntry
entry = SiteQueueEntry.model_validate(json.loads(sys.argv[1]))
program = PilotProgram({"program.sh": b"env; echo data=$(ulimit -S -d)"}, ("/bin/sh", "program.sh"))
open_batch_system(QueueSettings("SITE.queue", entry, Path(sys.argv[2]))).submit([PilotRequest(sys.argv[3])], program)
"""


def test_a_pilot_gets_neither_the_environment_nor_the_limits_of_who_submits_it(queue: Queue) -> None:
    [tag] = new_tags(1)
    entry = SiteQueueEntry.model_validate({"name": "queue", "batch_system": "slurm", "options": queue.options})
    limited = ["/bin/sh", "-c", 'ulimit -S -d 4000000; exec "$@"', "sh"]
    command = [*limited, sys.executable, "-c", SUBMITTER, entry.model_dump_json(), str(queue.folder), tag]
    environment = {**os.environ, "PENSTOCK_DATABASE_URL": "mysql://user:password@host/name", "A_WORD": "of-ours"}
    subprocess.run(command, check=True, env=environment)
    system = queue.open()
    answered(system, [tag], {BatchState.DONE})
    output = system.fetch_output([tag])[tag].stdout
    assert "password" not in output
    assert "of-ours" not in output
    assert "data=unlimited" in output.splitlines()


def test_a_controller_that_hangs_is_unavailable_in_time_and_leaves_no_command_behind(queue: Queue) -> None:
    system, mine = queue.open(timeout=0.5), new_tags(2)
    queue.server.freeze()
    try:
        with pytest.raises(BatchSystemUnavailable, match=r"squeue: no answer within 0\.5 s"):
            system.poll(mine)
        commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
        assert not [words for words in commands if str(queue.folder) in " ".join(words)]
    finally:
        queue.server.thaw()
    assert dict(queue.open().poll(mine)) == {}


def test_options_that_make_no_sense_are_refused_when_the_queue_is_opened(queue: Queue) -> None:
    for options in ({"partitoin": "main"}, {"folder": "output"}, {"timeout": 0}, {"ssh": {"host": "-oProxyCommand=x"}}):
        with pytest.raises(BadSettings, match=r"SITE\.queue.*slurm"):
            queue.open(**options)


def test_what_slurm_refuses_for_good_is_told_in_its_words(queue: Queue) -> None:
    with pytest.raises(BatchSystemUnavailable, match="Invalid partition name specified"):
        queue.open(partition="nowhere").submit(requests(new_tags(3)), queue.sleeper())


def test_one_login_serves_many_commands_and_another_queue(queue: Queue, login_node: SshServer) -> None:
    before = login_node.logins
    for system in (queue.open(ssh=login_node.options), queue.open(ssh=login_node.options, partition="main")):
        for _ in range(3):
            assert dict(system.poll(new_tags(2))) == {}
    assert login_node.logins == before + 1


def test_a_login_node_that_is_not_who_it_was_or_lets_nobody_in_is_unavailable(
    queue: Queue, login_node: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "known_hosts").touch()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other_key"], check=True)
    for changed, words in (
        ({"known_hosts_file": str(tmp_path / "known_hosts")}, "Host key verification failed"),
        ({"identity_file": str(tmp_path / "other_key")}, "Permission denied"),
        ({"port": 1}, "Connection refused"),
    ):
        with pytest.raises(BatchSystemUnavailable, match=words):
            queue.open(ssh={**login_node.options, **changed}).poll(new_tags(1))


@pytest.fixture(scope="module")
def accounted(mariadb_server: MariaDbServer) -> Iterator[SlurmServer]:
    with running_slurm(mariadb_server.new_database()) as server:
        yield server


def test_a_limit_of_the_site_is_used_up_and_what_squeue_forgets_is_in_the_accounts(
    accounted: SlurmServer, tmp_path: Path
) -> None:
    accounted.run("sacctmgr", "--immediate", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=13")
    queue = Queue(accounted, tmp_path)
    system, mine = queue.open(account="science", qos="normal"), new_tags(20)
    pilot = shell(f"echo ran >> {tmp_path}/ran; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 5")
    taken = system.submit(requests(mine), pilot)
    assert len(taken) == 13
    with pytest.raises(BatchSystemUnavailable, match="QOSMaxSubmitJobPerUserLimit"):
        system.submit([PilotRequest(tag) for tag in mine if tag not in taken], pilot)
    (tmp_path / "go").touch()
    eventually(lambda: accounted.run("squeue", "--noheader", "--states=all") == "", within=90, every=0.5)
    answers = system.poll(mine)
    assert set(answers) == set(taken)
    assert {(answer.state, answer.exit_code) for answer in answers.values()} == {(BatchState.FAILED, 5)}
    assert {tag: answer.handle for tag, answer in answers.items()} == {tag: taken[tag].handle for tag in taken}
    assert set(system.submit(requests(sorted(taken)), pilot)) == set(taken)
    assert (tmp_path / "ran").read_text().count("ran") == 13
    assert dict(queue.open(accounting=False).poll(mine)) == {}
