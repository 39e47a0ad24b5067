"""Simulated pilots, all in one asyncio process: what a pilot says and writes, without running anything.

`python -m tests.benchmarks.lifecycle_pilots PLAN.json` lets all of them in, prints `ready`, serves until SIGTERM,
and prints how long its calls took, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from schemas.pilots import PROTOCOL
from tests.benchmarks.lifecycle_http import Wire, slowness

WAIT = 10.0
"""Seconds that an idle pilot lets the server wait for jobs, as the real one does."""
LIFETIME = 80_000
AT_ONCE = 20
"""Pilots that enrol at the same time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the simulator is told: where the APIs are, and the tags of the pilots that were submitted, with secrets."""

    apis: list[tuple[str, int]]
    tags: list[tuple[str, str]]
    cores: int
    patience: float = 0.0
    """Seconds for which they repeat a call while the API is away."""


@dataclass(slots=True)
class Pilot:
    """One pilot: it offers all of its cores, confirms what comes, ends it at once, and reports that in one call."""

    wire: Wire
    tag: str
    secret: str
    cores: int
    token: str = ""
    interval: float = 10.0
    held: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    async def enrol(self) -> None:
        """Exchange the secret for a token."""
        node = {"host": f"node-{self.tag[-4:]}", **self._totals()}
        words = {"protocol": PROTOCOL, "secret": self.secret, "tag": self.tag, "version": "simulated", "node": node}
        reply = await self.wire.post("/v1/pilots/enrol", words)
        self.token, self.interval = reply["token"], reply["heartbeat_interval"]

    async def work(self) -> None:
        """Offer, start, write, report, without end."""
        while True:
            offer = {**self._totals(), "time_left": LIFETIME, "jobs": self._references(), "wait": WAIT}
            given = (await self._say("offer", offer)).get("assignments", ())
            if not given:
                continue
            self.held |= {(job["job_id"], job["attempt"]): job for job in given}
            verdict = await self._say("start", {"jobs": self._references()})
            for refused in verdict.get("refused", ()):
                del self.held[refused["job_id"], refused["attempt"]]
            reports = [_report(job) for job in self.held.values()]
            if reports:
                await self._say("report", {"reports": reports})
            self.held.clear()

    async def beat(self) -> None:
        """Say every so often what is at hand."""
        await asyncio.sleep(random.uniform(0, self.interval))
        while True:
            jobs = [{**reference, "phase": "running"} for reference in self._references()]
            reply = await self._say("heartbeat", {"jobs": jobs})
            await asyncio.sleep(reply["heartbeat_interval"])

    async def _say(self, word: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.wire.post(f"/v1/pilots/self/{word}", body, self.token)

    def _totals(self) -> dict[str, int]:
        return {"cores": self.cores, "memory": self.cores * 2048, "disk": self.cores * 10_240}

    def _references(self) -> list[dict[str, int]]:
        return [{"job_id": job_id, "attempt": attempt} for job_id, attempt in self.held]


def _report(job: dict[str, Any]) -> dict[str, Any]:
    """The job is over as soon as it began; its outputs are where they belong, with the checksum beside them."""
    return {
        "job_id": job["job_id"],
        "attempt": job["attempt"],
        "outcome": "succeeded",
        "exit_code": 0,
        "wall_time": 0.1,
        "cpu_time": 0.1,
        "memory": 1,
        "outputs": [_written(job["job_id"], output) for output in job["outputs"]],
    }


def _written(job_id: int, output: dict[str, Any]) -> dict[str, Any]:
    path = Path(unquote(urlsplit(output["url"]).path))
    content = f"the output of job {job_id}\n".encode()
    adler32 = f"{zlib.adler32(content):08x}"
    _make(path.parent)
    path.write_bytes(content)
    note = {"adler32": adler32, "size": len(content), "mtime_ns": path.stat().st_mtime_ns}
    path.with_name(f"{path.name}.adler32").write_text(json.dumps(note))
    return {"name": output["name"], "url": output["url"], "size": len(content), "adler32": adler32}


def _make(folder: Path) -> None:
    """From below: most of the way is there."""
    try:
        folder.mkdir()
    except FileNotFoundError:
        _make(folder.parent)
        folder.mkdir()


async def serve(plan: Plan) -> None:
    """All pilots of the plan, until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    wires = [Wire(host, port, plan.patience) for host, port in plan.apis]
    pilots = [Pilot(wires[i % len(wires)], tag, secret, plan.cores) for i, (tag, secret) in enumerate(plan.tags)]
    room = asyncio.Semaphore(AT_ONCE)

    async def enter(pilot: Pilot) -> None:
        async with room:
            await pilot.enrol()

    await asyncio.gather(*(enter(pilot) for pilot in pilots))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for pilot in pilots for job in (pilot.work(), pilot.beat())]
        print("ready", flush=True)
        await stopped.wait()
        for task in tasks:
            task.cancel()
    print(json.dumps(slowness(wires)), flush=True)


def written(plan: Plan, folder: Path) -> Path:
    """The file that `serve`'s process reads its plan from."""
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    return path


if __name__ == "__main__":
    asyncio.run(serve(Plan(**json.loads(Path(sys.argv[1]).read_text()))))
