#!/usr/bin/env python3
"""`make demo`: the whole of Penstock in a fresh folder, one campaign through it, and nothing left behind.

    python examples/zmumu/demo.py --to build/demo

Exit code 0 when the spectrum is there, 1 when something failed (its log is shown and kept), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_LIMIT = 60.0
RUN_LIMIT = 300.0
STOP_LIMIT = 30.0
RESULTS = ("zmumu.json", "zmumu.png")
PR_SET_CHILD_SUBREAPER = 36


class DemoFailed(Exception):
    """What went wrong, in words for the person who typed `make demo`."""


def environment(data: Path) -> dict[str, str]:
    """This process's environment with a Penstock of its own: no setting of the user's leaks in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PENSTOCK_DATA_DIR": str(data),
        "PENSTOCK_API_PORT": "0",
        "PENSTOCK_SCHEDULES": json.dumps({"provisioning": "* * * * * */2"}),  # nobody wants to watch a pilot not start
    }
    return kept | own


def descendants() -> list[int]:
    """The ids of all processes below this one; orphans among them, for this process adopts those."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended while we looked
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= found
    return sorted(family - {os.getpid()})


def end_everything(main: subprocess.Popen[bytes]) -> None:
    """SIGTERM for `penstock up`; after STOP_LIMIT seconds SIGKILL for it. Then SIGKILL for whatever it left."""
    main.terminate()
    try:
        main.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        main.kill()
        main.wait()
    while left := descendants():
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


@contextmanager
def running(data: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`penstock up` in the background, in a session of its own so that Ctrl-C reaches it through us, in order."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with (data / "up.log").open("wb") as log:
        main = subprocess.Popen(["penstock", "up"], env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        yield main
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_everything(main)


def wait_until_ready(main: subprocess.Popen[bytes], data: Path) -> None:
    """Until the API answers /readyz. Raises DemoFailed when it does not in START_LIMIT seconds, or has ended."""
    pause, deadline = threading.Event(), time.monotonic() + START_LIMIT
    while not answers(data / "api.url"):
        if main.poll() is not None:
            raise DemoFailed(f"`penstock up` ended at once with code {main.returncode}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"the API was not ready after {START_LIMIT:.0f} s")
        pause.wait(0.1)


def answers(note: Path) -> bool:
    """Whether the API whose URL is in `note` is ready."""
    if not note.exists() or not (url := note.read_text().strip()):
        return False
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as reply:  # noqa: S310 - the URL is our own API's
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def penstock(variables: dict[str, str], *arguments: str | Path) -> None:
    """Run one command as a user would. Raises DemoFailed when it fails."""
    words = " ".join(["penstock", *(os.path.relpath(a) if isinstance(a, Path) else a for a in arguments)])
    sys.stdout.write(f"$ {words}\n")
    sys.stdout.flush()
    try:
        subprocess.run(["penstock", *arguments], env=variables, check=True, timeout=RUN_LIMIT)
    except subprocess.CalledProcessError as error:
        raise DemoFailed(f"`{words}` ended with code {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise DemoFailed(f"`{words}` did not end in {RUN_LIMIT:.0f} s") from error


def merge_job(variables: dict[str, str]) -> str:
    """The id of the one job of the step `merge`. Raises DemoFailed when it is not the only one."""
    listing = ["penstock", "jobs", "list", "--step", "merge", "--json"]
    answer = subprocess.run(listing, env=variables, check=False, capture_output=True, text=True)
    jobs = json.loads(answer.stdout) if answer.returncode == 0 else []
    if len(jobs) != 1:
        raise DemoFailed(f"`{' '.join(listing)}` names {len(jobs)} jobs: {answer.stdout}{answer.stderr}")
    return str(jobs[0]["id"])


def result(target: Path) -> str:
    """The spectrum's figures in words. Raises DemoFailed when a file is not there."""
    for name in RESULTS:
        if not (target / name).exists():
            raise DemoFailed(f"no {name} was fetched, though the campaign is done")
    spectrum = json.loads((target / "zmumu.json").read_text())
    low, high = spectrum["peak_bin"]
    return f"{spectrum['events']} events, peak [{low}, {high}) GeV, median {spectrum['median']:.2f} GeV"


def run(data: Path, target: Path) -> None:
    """The demonstration itself."""
    started = time.monotonic()
    for name in RESULTS:
        (target / name).unlink(missing_ok=True)
    variables = environment(data)
    sys.stdout.write(f"starting Penstock in {data}\n")
    sys.stdout.flush()
    with running(data, variables) as main:
        wait_until_ready(main, data)
        penstock(variables, "sites", "apply", HERE / "sites.yaml")
        penstock(variables, "submit", "--wait", HERE / "campaign.yaml")
        penstock(variables, "jobs", "output", merge_job(variables), "--to", target)
    sys.stdout.write(f"\n{result(target)}\nplot: {target / 'zmumu.png'}\n{time.monotonic() - started:.0f} s in all\n")


def interrupt(number: int, _frame: object) -> None:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does."""
    raise KeyboardInterrupt(f"signal {number}")


def main() -> int:
    """Run it; on failure show the end of the log and say where all of it is."""
    parser = argparse.ArgumentParser(description="the Z -> mu mu campaign on this machine")
    parser.add_argument("--to", type=Path, default=Path("build/demo"), help="folder for zmumu.json and zmumu.png")
    target = parser.parse_args().to
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    data = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        run(data, target)
    except DemoFailed as error:
        log = (data / "up.log").read_text(errors="replace").splitlines()
        sys.stderr.write("\n".join([*log[-30:], "", f"demo: {error}; everything is kept in {data}", ""]))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ndemo: interrupted; everything has been ended\n")
        shutil.rmtree(data, ignore_errors=True)
        return 130
    shutil.rmtree(data, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
