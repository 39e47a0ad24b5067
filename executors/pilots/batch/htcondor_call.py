"""One call of the batch system `htcondor`, in a process of its own: `python -m executors.pilots.batch.htcondor_call`.

The bindings keep their configuration, tokens and security sessions for the whole process, hold the interpreter while
they wait, and can wait longer than anybody wants to. So a call is a child: it reads an order as JSON from standard
input and writes the answer as JSON to standard output; its parent ends it when its time is over, and it ends itself
when its parent has died, so that nothing is submitted behind the back of whoever takes over. This module imports no
more than the standard library and `htcondor2`: it starts in a tenth of a second.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import classad2
import htcondor2

from executors.pilots.batch.htcondor_ads import (
    ATTRIBUTES,
    COMPLETED,
    ENDED,
    FORGOTTEN,
    HELD,
    REMOVED,
    SPOOLING_HOLD,
    STARTS,
    TAG,
    Phase,
    job_id,
    phase,
)

Order = dict[str, Any]
Ads = dict[str, dict[str, Any]]
"""Attributes by tag."""

_PR_SET_PDEATHSIG = 1
_PAUSE = 0.02
_AT_ONCE = 1_000
"""Tags of one search of the history: the schedd hands them to its helper on a command line, which has an end."""
_CUT_OFF = f"JobStatus == {HELD} && HoldReasonCode == {SPOOLING_HOLD}"
_TOLD_ROOM = re.compile(r"expected next ProcId to be (\d+), but Schedd says -[234]\b")
_LIMIT = re.compile(r"MAX_JOBS_\w+ exceeded|Schedd says -[234]\b")
_LIMITS = {"-2": "MAX_JOBS_SUBMITTED", "-3": "MAX_JOBS_PER_OWNER", "-4": "MAX_JOBS_PER_SUBMISSION"}


def main() -> None:
    """Carry out the order on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    order: Order = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        sys.exit("the parent has died")
    os.chdir(order["folder"])
    htcondor2.enable_debug()
    try:
        answer = {"answer": CALLS[order["call"]](_connect(order), order)}
    except (
        htcondor2.HTCondorException,
        classad2.ClassAdException,
        LookupError,
        OSError,
        ValueError,
        TypeError,
    ) as error:
        answer = {"error": _words(error)}
    json.dump(answer, answers)
    answers.flush()


def _connect(order: Order) -> htcondor2.Schedd:
    location = _locate(order)
    for what in ("AUTHENTICATION", "ENCRYPTION", "INTEGRITY"):  # not of the collector, which may not know us at all
        name = f"SEC_CLIENT_{what}"
        if name not in order["config"]:
            htcondor2.param[name] = "REQUIRED"
    return htcondor2.Schedd(location)


def _locate(order: Order) -> classad2.ClassAd:
    if order["address"]:
        return classad2.ClassAd({"MyAddress": _contact(order["address"]), "CondorVersion": ""})
    pool = htcondor2.Collector(order["collector"]) if order["collector"] else htcondor2.Collector()
    wanted = [order["schedd"]] if order["schedd"] else []
    found = pool.locate(htcondor2.DaemonType.Schedd, *wanted)
    if found is None:  # the bindings would take it for this machine's schedd
        there = f"collector {order['collector']}" if order["collector"] else "the collector of this machine's pool"
        raise LookupError(f"{there} knows no schedd {order['schedd'] or 'of this machine'}")
    return found


def _contact(address: str) -> str:
    if address.startswith("<"):
        return address
    host, _, port = address.rpartition(":")
    return f"<{socket.gethostbyname(host)}:{port}>"


def submit(schedd: htcondor2.Schedd, order: Order) -> dict[str, Any]:
    """Submit the tags that are not known, in one cluster if the limits of the schedd allow it; release held ones."""
    tags: list[str] = order["tags"]
    queued = _without_cut_off(schedd, tags)
    known = _in_history(schedd, [tag for tag in tags if tag not in queued], order["history"]) | queued
    _release(schedd, [ad for ad in known.values() if phase(ad) is Phase.HELD])
    taken = {tag: job_id(ad) for tag, ad in known.items()}
    new = [tag for tag in tags if tag not in known]
    size, refusal = len(new), ""
    while new and size:
        try:
            taken |= _submit_cluster(schedd, order["words"], new[:size])
        except htcondor2.HTCondorException as error:
            refusal = str(error)
            if not _LIMIT.search(refusal):
                if taken:
                    break
                raise
            told = _TOLD_ROOM.search(refusal)
            size = min(int(told[1]), size - 1) if told else size // 2
        else:
            new = new[size:]
    return {"taken": taken, "refusal": _limit_words(refusal)}


def _submit_cluster(schedd: htcondor2.Schedd, words: dict[str, str], tags: Sequence[str]) -> dict[str, str]:
    result = schedd.submit(htcondor2.Submit(words), spool=True, itemdata=iter([{"tag": tag} for tag in tags]))
    schedd.spool(result)
    cluster = result.cluster()
    while schedd.query(f"ClusterId == {cluster} && {_CUT_OFF}", ["ClusterId"], limit=1):
        time.sleep(_PAUSE)  # the files are there; the schedd takes a moment to see it
    return {tag: f"{cluster}.{number}" for number, tag in enumerate(tags, result.first_proc())}


def _limit_words(refusal: str) -> str:
    code = re.search(r"Schedd says (-[234])\b", refusal)
    return f"{_LIMITS[code[1]]} of the schedd is reached" if code else refusal


def poll(schedd: htcondor2.Schedd, order: Order) -> list[dict[str, Any]]:
    """The attributes of those that the queue knows, or else its history."""
    tags: list[str] = order["tags"]
    queued = _in_queue(schedd, tags)
    ended = _in_history(schedd, [tag for tag in tags if tag not in queued], order["history"])
    return [ad for ad in (ended | queued).values() if phase(ad) is not Phase.SPOOLING]


def remove(schedd: htcondor2.Schedd, order: Order) -> None:
    """End what has not ended; what has leaves the queue, and its files with it."""
    queued = _in_queue(schedd, order["tags"])
    live = [ad for ad in queued.values() if phase(ad) not in ENDED]
    there = [job_id(ad) for ad in live if ad["JobStatus"] != REMOVED]
    if there:
        schedd.act(htcondor2.JobAction.Remove, there, ("not wanted any more, says Penstock", 0))
    _forget(schedd, [ad for ad in queued.values() if phase(ad) in ENDED])


def fetch_output(schedd: htcondor2.Schedd, order: Order) -> list[str]:
    """Bring the output of those that have ended into the folder of this call; the tags that are known."""
    queued = _in_queue(schedd, order["tags"])
    there = [job_id(ad) for ad in queued.values() if ad["JobStatus"] == COMPLETED]
    if there:
        schedd.edit(there, "SUBMIT_Iwd", classad2.quote(str(Path.cwd())))
        try:
            schedd.retrieve(there)
        except htcondor2.HTCondorException:
            for one in there:  # a single one without a file fails them all
                _retrieve_alone(schedd, one)
    return list(queued)


def _retrieve_alone(schedd: htcondor2.Schedd, one: str) -> None:
    try:
        schedd.retrieve(one)
    except htcondor2.HTCondorException as error:
        if "errno 2" not in str(error):
            raise


def _without_cut_off(schedd: htcondor2.Schedd, tags: Sequence[str]) -> Ads:
    """What the queue knows, once those are gone whose files never came: unless they just have."""
    queued = _in_queue(schedd, tags)
    cut_off = [tag for tag, ad in queued.items() if phase(ad) is Phase.SPOOLING]
    if not cut_off:
        return queued
    schedd.act(htcondor2.JobAction.Remove, f"{_constraint(cut_off)} && {_CUT_OFF}", ("its files never came", 0))
    queued = _in_queue(schedd, tags)
    gone = {tag: ad for tag, ad in queued.items() if tag in cut_off and ad["JobStatus"] == REMOVED}
    _forget(schedd, list(gone.values()))
    return {tag: ad for tag, ad in queued.items() if tag not in gone}


def _in_queue(schedd: htcondor2.Schedd, tags: Sequence[str]) -> Ads:
    if not tags:
        return {}
    return _by_tag(schedd.query(_constraint(tags), list(ATTRIBUTES)))


def _in_history(schedd: htcondor2.Schedd, tags: Sequence[str], history: float) -> Ads:
    """Jobs leave the queue at the latest when they have been kept there as long as we asked for: the search ends at one
    of ours that ended so long before that it left more than a day ago."""
    if not tags or not history:
        return {}
    since = f"{TAG} isnt undefined && EnteredCurrentStatus < {int(time.time() - history)}"
    found: Ads = {}
    for start in range(0, len(tags), _AT_ONCE):
        some = tags[start : start + _AT_ONCE]
        found |= _by_tag(schedd.history(_constraint(some), list(ATTRIBUTES), len(some), since))
    for ad in found.values():
        ad.pop("RemoteHost", None)  # of one that was thrown out while it ran
    return found


def _constraint(tags: Sequence[str]) -> str:
    listed = ",".join(classad2.quote(tag) for tag in tags)
    return f"{TAG} isnt undefined && member({TAG}, {{{listed}}}) && {FORGOTTEN} =!= true"


def _by_tag(ads: Iterable[Any]) -> Ads:
    return {ad[TAG]: {name: ad[name] for name in ATTRIBUTES if _is_plain(ad.get(name))} for ad in ads}


def _is_plain(value: object) -> bool:
    """Not when it is undefined, or an expression."""
    return isinstance(value, (str, float)) or type(value) in (bool, int)


def _release(schedd: htcondor2.Schedd, held: Sequence[dict[str, Any]]) -> None:
    for ad in held:  # a pilot that had begun may start once more
        if ad.get("NumJobStarts", 0) != ad.get(STARTS, 0):
            schedd.edit([job_id(ad)], STARTS, str(ad["NumJobStarts"]))
    if held:
        schedd.act(htcondor2.JobAction.Release, [job_id(ad) for ad in held], ("released by Penstock", 0))


def _forget(schedd: htcondor2.Schedd, past: Sequence[dict[str, Any]]) -> None:
    if not past:
        return
    jobs = [job_id(ad) for ad in past]
    schedd.edit(jobs, FORGOTTEN, "true")
    there = [job_id(ad) for ad in past if ad["JobStatus"] != REMOVED]
    if there:
        schedd.act(htcondor2.JobAction.Remove, there, ("forgotten by Penstock", 0))
    schedd.act(htcondor2.JobAction.RemoveX, jobs, ("forgotten by Penstock", 0))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


CALLS: dict[str, Callable[[htcondor2.Schedd, Order], Any]] = {
    "submit": submit,
    "poll": poll,
    "remove": remove,
    "fetch_output": fetch_output,
}

if __name__ == "__main__":
    main()
