"""Control groups: where they are found, what is written, and what is put back.

The machine that tests run on may have no v2 memory controller: what the kernel makes of the limits is not tested here.
Folders of plain files stand for groups, to see what is read and written; what needs no controller runs on the kernel in
tests/integration/pilot/test_control_groups.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.pilot import cgroups
from pipeline.pilot.cgroups import Limits, Nest

UNIFIED = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = """\
31 24 0:26 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs ro
32 31 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
33 31 0:28 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory
"""
INSIDE = "40 39 0:23 /system.slice/docker-1.scope /sys/fs/cgroup rw - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("own", "mounts", "folder"),
    [
        ("0::/user.slice/job\n", UNIFIED, "/sys/fs/cgroup/user.slice/job"),
        ("0::/\n", UNIFIED, "/sys/fs/cgroup"),
        ("4:memory:/slurm/job\n1:name=systemd:/\n0::/slurm/job\n", HYBRID, "/sys/fs/cgroup/unified/slurm/job"),
        ("0::/system.slice/docker-1.scope/job\n", INSIDE, "/sys/fs/cgroup/job"),
        ("0::/system.slice/docker-12.scope\n", INSIDE, ""),
        ("0::/../../elsewhere\n", UNIFIED, ""),
        ("4:memory:/slurm/job\n", HYBRID, ""),
        ("", "", ""),
    ],
    ids=["unified", "root", "hybrid", "namespace", "other-scope", "outside", "version-1-alone", "none"],
)
def test_the_own_group_is_found_in_unified_and_hybrid_hierarchies(
    tmp_path: Path, own: str, mounts: str, folder: str
) -> None:
    (tmp_path / "cgroup").write_text(own)
    (tmp_path / "mountinfo").write_text(mounts)
    assert cgroups.find(str(tmp_path)) == folder


def group(path: Path, controllers: str = "", passed_on: str = "", processes: str = "") -> Path:
    """A folder that looks like a group."""
    path.mkdir()
    for name, text in {
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": passed_on,
        "cgroup.procs": processes,
        "cgroup.type": "domain",
    }.items():
        (path / name).write_text(text)
    return path


def test_a_delegated_group_is_emptied_and_its_controllers_passed_on(tmp_path: Path) -> None:
    home = group(tmp_path / "home", "cpuset cpu io memory pids", processes=f"{os.getpid()}\n")
    nest = cgroups.settle(str(home), "penstock-1")
    assert nest.controllers == {"cpu", "memory", "pids"}
    assert nest.enabled == ("cpu", "memory", "pids")
    assert (home / "penstock-1" / "pilot" / "cgroup.procs").read_text() == str(os.getpid())
    # each is written by itself; a plain file keeps the last
    assert (home / "cgroup.subtree_control").read_text() == "+pids"
    assert (home / "penstock-1" / "cgroup.subtree_control").read_text() in {"+cpu", "+memory", "+pids"}


def test_of_controllers_that_are_passed_on_already_nothing_is_moved(tmp_path: Path) -> None:
    home = group(tmp_path / "home", "memory pids", "memory pids", str(os.getpid()))
    nest = cgroups.settle(str(home), "penstock-1")
    assert (nest.controllers, nest.enabled) == (frozenset({"memory", "pids"}), ())
    assert not (home / "penstock-1" / "pilot" / "cgroup.procs").exists()


def test_processes_of_others_are_not_moved_about(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        home = group(tmp_path / "home", "memory pids", processes=f"{os.getpid()}\n{other.pid}\n")
        nest = cgroups.settle(str(home), "penstock-1")
        other.kill()
    assert (nest.folder, nest.controllers) == (str(home / "penstock-1"), frozenset())
    assert (home / "cgroup.subtree_control").read_text() == ""


def test_without_a_group_of_its_own_a_pilot_has_no_nest(tmp_path: Path) -> None:
    assert cgroups.settle("", "penstock-1") is cgroups.NONE
    assert cgroups.settle(str(tmp_path / "missing"), "penstock-1") is cgroups.NONE
    assert cgroups.NONE.group("job-1-1", Limits(1, 1, 1)) == ""
    cgroups.NONE.leave()
    cgroups.kill("")
    cgroups.remove("")
    cgroups.join("")
    assert (cgroups.members(""), cgroups.tasks(""), cgroups.memory_peak(""), cgroups.oom_kills("")) == ([], 0, 0, 0)


def test_a_jobs_limits_are_written_in_the_kernels_words(tmp_path: Path) -> None:
    nest = Nest(str(tmp_path), str(tmp_path), frozenset({"cpu", "memory", "pids"}))
    job = Path(nest.group("job-7-2", Limits(memory=100, tasks=1400, cores=4)))
    assert job == tmp_path / "job-7-2"
    assert {path.name: path.read_text() for path in job.iterdir()} == {
        "memory.max": str(100 << 20),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": "1400",
        "cpu.weight": "400",
    }
    assert nest.keeps("memory", str(job))
    assert not nest.keeps("memory", "")
    assert Path(nest.group("job-8-1", Limits(1, 1, 1000)), "cpu.weight").read_text() == "10000"


def test_a_group_that_can_not_be_made_is_none(tmp_path: Path) -> None:
    nest = Nest(str(tmp_path), str(tmp_path), frozenset({"memory"}))
    (tmp_path / "job-1-1").mkdir()
    assert nest.group("job-1-1", Limits(1, 1, 1)) == ""


def test_figures_are_read_and_an_oom_kill_is_told(tmp_path: Path) -> None:
    for name, text in {
        "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n",
        "memory.peak": "104857600\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\n",
        "pids.events": "max 4\n",
        "pids.current": "17\n",
        "cgroup.procs": "11\n12\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "cgroup.procs").write_text("13\n")
    job = str(tmp_path)
    assert (cgroups.oom_kills(job), cgroups.memory_peak(job), cgroups.cpu_time(job)) == (3, 100 << 20, 2.5)
    assert (cgroups.forks_refused(job), cgroups.tasks(job), cgroups.members(job)) == (4, 17, [11, 12, 13])


def test_all_is_put_back_when_the_pilot_leaves(tmp_path: Path) -> None:
    home = group(tmp_path / "home", "memory pids", processes="99")
    folder = home / "penstock-1"
    (folder / "pilot").mkdir(parents=True)
    (folder / "job-1-1" / "of-a-runtime").mkdir(parents=True)
    Nest(str(home), str(folder), frozenset({"memory"}), ("memory",)).leave()
    assert (home / "cgroup.subtree_control").read_text() == "-memory"
    assert not (folder / "job-1-1" / "of-a-runtime").exists()
    assert not (folder / "pilot").exists()
