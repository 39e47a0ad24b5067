"""Batch system `slurm`: by its own commands (sbatch, squeue, sacct, scontrol, scancel), on this machine or on a login
node over OpenSSH.

Pilots are submitted as job arrays, whose comment holds their tags in order: what is known of a tag is found by that
alone. The batch script comes on standard input and holds the pilot, and so its secret, which Slurm keeps in files of
its own and of the user. Each pilot writes to `FOLDER/TAG.out` and `.err`. With several nodes to a batch job, each has a
step that is named after its tag.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from executors.pilots.batch.command_shell import Finished, LocalShell, Shell
from executors.pilots.batch.slurm_answers import (
    JOB_NAME,
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Place,
    comment,
    handle_of,
    live,
    places,
    room_in_comment,
)
from executors.pilots.batch.slurm_options import SlurmOptions, measures
from executors.pilots.batch.slurm_script import batch_script
from executors.pilots.batch.ssh import SshShell
from executors.pilots.port import (
    OUTPUT_LIMIT,
    BatchAnswer,
    BatchState,
    PilotOutput,
    PilotRequest,
    QueueSettings,
    Submission,
)
from executors.pilots.program import PilotProgram
from pipeline.errors import BatchSystemUnavailable

KEPT = 7
"""Days that files of output are kept, and that accounts are looked through."""
_TIMED_OUT = 124
"""What timeout(1) ends with when it had to end the command."""
_GRACE = 5.0
"""Seconds more than the command has on its side until we give it up on ours."""
_UNREACHABLE = re.compile(r"contact|timed out|zero bytes|connect|communication|sleeping and retrying", re.IGNORECASE)
"""Words of sbatch that say nothing of what was submitted."""
_NO_ACCOUNTS = "accounting storage is disabled"
_GONE = re.compile(r"invalid job id|already complet", re.IGNORECASE)


class SlurmBatchSystem:
    """One queue of it."""

    def __init__(self, queue: QueueSettings) -> None:
        self._label = queue.label
        self._entry = queue.entry
        self._options = SlurmOptions.of(queue)
        ssh = self._options.ssh
        self._shell: Shell = LocalShell() if ssh is None else SshShell(ssh, queue.data_dir)

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        """In arrays of as many as their tags have room in a comment; what Slurm refuses is tried in halves."""
        wanted = {request.tag: request for request in requests}
        if not wanted:
            return {}
        found = self._find(list(wanted))
        self._release([several[0] for several in found.values() if several[0].answer.state is BatchState.HELD])
        taken = {tag: Submission(several[0].answer.handle) for tag, several in found.items()}
        new = [request for tag, request in wanted.items() if tag not in found]
        if new:
            self._must(self._run('mkdir -p "$folder" || exit', _FORGET_OLD), "folder")
            submitted, refusal = self._submit(new, program)
            taken |= submitted
            if not taken:
                raise BatchSystemUnavailable(f"{self._label}: sbatch: {refusal}")
        return taken

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """squeue, and sacct for what it has forgotten."""
        return {tag: several[0].answer for tag, several in self._find(tags).items()} if tags else {}

    def remove(self, tags: Sequence[str]) -> None:
        """Cancel what lives, and delete what the others wrote; Slurm itself forgets them when it is time.

        Of a batch job of several nodes some of whose pilots stay, only the steps of the others are cancelled: while
        such a job is queued, it stays as it is.
        """
        if not tags:
            return
        alive = live(self._find(tags, accounts=False), tags)
        self._cancel(alive, set(tags))
        ended = set(tags) - {tag for place in alive for tag in place.tags}
        self._must(self._run(_FORGET, given=_lines(ended)), "folder")

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """The ends of their files, of which pilots that have not started have none."""
        if not tags:
            return {}
        told = self._must(self._run(_TAILS, given=_lines(tags)), "folder")
        found: dict[str, dict[str, str]] = {}
        for line in told.splitlines():
            mark, tag, stream, *text = line.split(" ")
            if mark == _MARK:
                found.setdefault(tag, {})[stream] = base64.b64decode("".join(text)).decode(errors="replace")
        return {tag: PilotOutput(texts.get("out", ""), texts.get("err", "")) for tag, texts in found.items()}

    def _find(self, tags: Sequence[str], *, accounts: bool = True) -> Mapping[str, Sequence[Place]]:
        """Where these tags are, as far as Slurm knows them."""
        squeue = self._must(
            self._run(
                f"{self._timed} squeue --me --all --array --noheader --states=all --name={JOB_NAME}"
                f" --Format={shlex.quote(SQUEUE_FORMAT)}"
            ),
            "squeue",
        )
        found = places(squeue)
        if accounts and self._options.accounting and not all(tag in found for tag in tags):
            found = {**places("", self._accounts()), **found}
        return {tag: found[tag] for tag in tags if tag in found}

    def _accounts(self) -> str:
        done = self._run(
            f"{self._timed} sacct --allocations --noheader --parsable2 --name={JOB_NAME}"
            f" --starttime=now-{KEPT}days --format={SACCT_FORMAT}"
        )
        return "" if _NO_ACCOUNTS in done.error else self._must(done, "sacct")

    def _submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> tuple[dict[str, Submission], str]:
        """What was taken, and Slurm's words about the rest."""
        taken: dict[str, Submission] = {}
        nodes = self._entry.nodes
        left = list(requests[: len(requests) - len(requests) % nodes])
        room = len(left)
        words = f"{len(requests)} pilots make no batch job of {nodes} nodes"
        while left:
            chunk = left[: min(room, room_in_comment([request.tag for request in left], nodes))]
            done = self._sbatch(chunk, program)
            if done.code == 0:
                job = done.output.split()[-1].partition(";")[0]
                taken |= {request.tag: Submission(self._handle(job, n, len(chunk))) for n, request in enumerate(chunk)}
                del left[: len(chunk)]
            elif len(chunk) == nodes or done.code == _TIMED_OUT or _UNREACHABLE.search(done.error):
                words = self._words(done)
                break
            else:
                room = max(nodes, len(chunk) // 2 // nodes * nodes)
        return taken, words

    def _sbatch(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Finished:
        nodes = self._entry.nodes
        jobs = len(requests) // nodes
        stem, array = ("%j", []) if jobs == 1 else ("%A_%a", [f"--array=0-{jobs - 1}"])
        ours = ["--parsable", f"--job-name={JOB_NAME}", "--chdir=/tmp", *array]
        ours.append(f"--comment={comment([request.tag for request in requests], nodes)}")
        files = [f'--output="$folder/{stem}.out"', f'--error="$folder/{stem}.err"']
        text = batch_script(requests, program, self._entry, self._options)
        # the last word counts: a site may say what a pilot gets, but not how we find it
        command = " ".join([self._timed, "sbatch", shlex.join([*measures(self._entry, self._options), *ours]), *files])
        return self._run(_WITH_FOLDER + command, given=text.encode())

    def _handle(self, job: str, number: int, count: int) -> str:
        nodes = self._entry.nodes
        return handle_of(job if count == nodes else f"{job}_{number // nodes}", number % nodes, nodes)

    def _release(self, held: Iterable[Place]) -> None:
        """One that may not be released (an administrator holds it, say) says so at the next poll."""
        jobs = {place.job for place in held}
        if jobs:
            done = self._run(f"{self._timed} xargs -n 1 scontrol release", given=_lines(jobs))
            if done.code == _TIMED_OUT or _UNREACHABLE.search(done.error):
                self._must(done, "scontrol release")

    def _cancel(self, alive: Sequence[Place], tags: set[str]) -> None:
        whole = {place.job for place in alive if set(place.tags) <= tags}
        part = tags & {tag for place in alive if place.job not in whole for tag in place.tags}
        if part:
            steps = self._must(
                self._run(f"{self._timed} squeue --me --all --noheader --steps --Format='StepID:|,StepName:|'"),
                "squeue",
            )
            named = [line.split("|")[:2] for line in steps.splitlines() if line.count("|") >= 2]
            whole |= {step.strip() for step, name in named if name.strip() in part}
        if whole:
            done = self._run(f"{self._timed} xargs -n 500 scancel --quiet", given=_lines(whole))
            if not _GONE.search(done.words):
                self._must(done, "scancel")

    @property
    def _timed(self) -> str:
        """The command must not live on where we can't see it any more: an sbatch might yet submit."""
        return f"timeout -k 2 {self._options.timeout:g}"

    def _run(self, *commands: str, given: bytes = b"") -> Finished:
        text = "\n".join([*self._options.prelude(), *commands])
        try:
            return self._shell.run(text, given, seconds=self._options.timeout + _GRACE)
        except BatchSystemUnavailable as error:
            raise BatchSystemUnavailable(f"{self._label}: {error}") from error

    def _must(self, done: Finished, what: str) -> str:
        if done.code != 0:
            raise BatchSystemUnavailable(f"{self._label}: {what}: {self._words(done)}")
        return done.output

    def _words(self, done: Finished) -> str:
        if done.code != _TIMED_OUT:
            return done.words
        late = f"no answer within {self._options.timeout:g} s"
        return f"{late} ({done.words})" if done.error.strip() else late


def _lines(words: Iterable[str]) -> bytes:
    return "".join(f"{word}\n" for word in sorted(words)).encode()


_WITH_FOLDER = """{ printf '#!/bin/sh\\nfolder="%s"\\n' "$folder"; cat; } | """
_MARK = "penstock-output"
_FORGET_OLD = f'find "$folder" -maxdepth 1 -type f -mtime +{KEPT} -delete 2>/dev/null || true'
_FORGET = 'while read -r tag; do rm -f "$folder/$tag.out" "$folder/$tag.err"; done'
_TAILS = f"""[ -d "$folder" ] && cd "$folder" || exit 0
while read -r tag; do
    for stream in out err; do
        [ -f "$tag.$stream" ] || continue
        printf '{_MARK} %s %s ' "$tag" "$stream"
        tail -c {OUTPUT_LIMIT} "$tag.$stream" | base64 | tr -d '\\n'
        echo
    done
done"""
