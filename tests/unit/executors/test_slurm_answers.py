"""What Slurm's lists mean for pilots, in the forms that its releases and its sites have."""

from __future__ import annotations

import pytest

from executors.pilots.batch.slurm_answers import comment, exit_code, live, places, room_in_comment
from executors.pilots.port import BatchAnswer, BatchState

TAGS = [f"{number:032x}" for number in range(100)]


def squeue(job: str, state: str, code: str = "0", reason: str = "None", words: str = "penstock:1:a,b,c") -> str:
    return f"{job:20}|{state:20}|{code:20}|{reason:20}|{words:20}|\n"


def answer(line: str, tag: str) -> BatchAnswer:
    return places(line)[tag][0].answer


def test_an_index_is_the_place_of_a_tag_in_the_comment() -> None:
    found = places(squeue("12_0", "RUNNING") + squeue("12_2", "PENDING", reason="Priority") + squeue("7", "RUNNING"))
    assert [place.answer.handle for place in found["a"]] == ["12_0", "7"]
    assert found["c"][0].answer == BatchAnswer("12_2", BatchState.QUEUED, reason="Slurm: Priority")
    assert "b" not in found


def test_a_batch_job_of_several_nodes_holds_a_tag_for_each() -> None:
    found = places(squeue("12_1", "RUNNING", words="penstock:2:a,b,c,d"))
    assert {tag: several[0].answer.handle for tag, several in found.items()} == {"c": "12_1.0", "d": "12_1.1"}
    assert found["c"][0].tags == ("c", "d")


@pytest.mark.parametrize(
    ("state", "code", "reason", "told"),
    [
        ("PENDING", "0", "JobHeldAdmin", (BatchState.HELD, None, "held by an administrator (Slurm: JobHeldAdmin)")),
        ("PENDING", "0", "JobHeldUser", (BatchState.HELD, None, "held by its user (Slurm: JobHeldUser)")),
        (
            "PENDING",
            "0",
            "launch failed requeued held",
            (BatchState.HELD, None, "its launch failed, and Slurm holds it (Slurm: launch_failed_requeued_held)"),
        ),
        ("REQUEUE_HOLD", "0", "None", (BatchState.HELD, None, "held (Slurm: REQUEUE_HOLD)")),
        ("CONFIGURING", "0", "None", (BatchState.QUEUED, None, "")),
        ("SUSPENDED", "0", "None", (BatchState.RUNNING, None, "Slurm: SUSPENDED")),
        ("COMPLETED", "0", "None", (BatchState.DONE, 0, "exit code 0")),
        ("FAILED", "1792", "NonZeroExitCode", (BatchState.FAILED, 7, "exit code 7")),
        ("FAILED", "7:0", "NonZeroExitCode", (BatchState.FAILED, 7, "exit code 7")),
        ("FAILED", "9", "RaisedSignal:9(Killed)", (BatchState.FAILED, 137, "exit code 137")),
        ("FAILED", "0", "JobLaunchFailure", (BatchState.FAILED, None, "it failed (Slurm: FAILED, JobLaunchFailure)")),
        (
            "TIMEOUT",
            "0",
            "TimeLimit",
            (BatchState.FAILED, None, "it ran into its wall time (Slurm: TIMEOUT, TimeLimit)"),
        ),
        (
            "OUT_OF_MEMORY",
            "0:125",
            "OutOfMemory",
            (BatchState.FAILED, None, "it took more memory than it had asked for (Slurm: OUT_OF_MEMORY, OutOfMemory)"),
        ),
        (
            "PREEMPTED",
            "0",
            "None",
            (BatchState.FAILED, None, "it had to make room for another job (Slurm: PREEMPTED)"),
        ),
        ("LAUNCH_FAILED", "0", "None", (BatchState.FAILED, None, "it ended (Slurm: LAUNCH_FAILED)")),
    ],
)
def test_states_and_reasons_are_told_in_words(
    state: str, code: str, reason: str, told: tuple[BatchState, int | None, str]
) -> None:
    assert answer(squeue("3", state, code, reason), "a") == BatchAnswer("3", *told)


def test_accounts_say_the_tags_in_the_comment_or_else_in_the_line_of_the_submission() -> None:
    line = "/usr/bin/sbatch --parsable --comment=penstock:1:a,b --partition=main"
    sacct = f"4_0|CANCELLED by 1000|0:15||{line}\n4_1|FAILED|3:0|penstock:1:a,b|\n4_[2-3]|PENDING|0:0||{line}\n"
    found = places("", sacct)
    assert found["a"][0].answer.state is BatchState.FAILED
    assert "cancelled" in found["a"][0].answer.reason
    assert found["b"][0].answer.exit_code == 3


def test_of_two_jobs_with_a_tag_the_one_that_lives_counts_and_both_are_live_ones() -> None:
    found = places(squeue("1_0", "FAILED", "256") + squeue("2_0", "PENDING") + squeue("3_0", "RUNNING"))
    assert [place.job for place in found["a"]] == ["3_0", "2_0", "1_0"]
    assert [place.job for place in live(found, ["a", "z"])] == ["3_0", "2_0"]


@pytest.mark.parametrize(
    "text", ["", "slurm is fine\n", "1|RUNNING\n", squeue("x", "RUNNING"), squeue("1", "RUNNING", words="")]
)
def test_lines_that_are_no_pilots_are_passed_over(text: str) -> None:
    assert dict(places(text)) == {}


@pytest.mark.parametrize("nodes", [1, 4, 40])
def test_a_submission_takes_whole_batch_jobs_whose_tags_have_room_in_a_comment(nodes: int) -> None:
    room = room_in_comment(TAGS, nodes)
    assert room % nodes == 0
    assert room == nodes or len(comment(TAGS[:room], nodes)) <= 1000
    assert room == nodes or len(comment(TAGS[: room + nodes], nodes)) > 1000


def test_an_exit_code_that_is_none_is_none() -> None:
    assert [exit_code(text) for text in ("", "0", "0:0", "N/A", "256", "15", "0:15")] == [
        None,
        None,
        None,
        None,
        1,
        143,
        143,
    ]
