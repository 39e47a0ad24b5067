"""What matching is measured on: MariaDB as production has it, and two consumers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import MariaDbServer
from tests.waiting import eventually

CONSUMERS = 2
BYTES_PER_JOB = 1_000
"""What a waiting job takes on the disk with its events, its indexes and the logs."""
_FLUSHED = 600.0

LOADING = (
    "--innodb-buffer-pool-size=2G",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
    "--innodb-flush-method=O_DIRECT",
    "--innodb-io-capacity=5000",
    "--innodb-io-capacity-max=20000",
    "--innodb-flush-neighbors=0",
)
"""Only while tables are loaded: a crash would be answered by loading them again."""
DURABLE = (
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-doublewrite=ON",
    "--innodb-flush-method=O_DIRECT",
    "--innodb-log-file-size=2G",
    "--innodb-io-capacity=1000",
    "--innodb-io-capacity-max=4000",
    "--innodb-flush-neighbors=0",
)
"""While matching is measured. No commit is lost in a crash; pages are not cached a second time by the kernel, so that
the buffer pool is all that there is. No binary log: who replicates pays for that too."""


class MatchingServer(MariaDbServer):
    """A MariaDB whose options change between starts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.options: Sequence[str] = LOADING

    def command(self) -> list[str]:
        return [*super().command(), "--innodb-log-file-size=2G", *self.options]

    def start_with(self, *options: str) -> None:
        """End it when all is on the disk, and start it with these options."""
        self.options = options
        if self.is_running:
            self.sql("SET GLOBAL innodb_io_capacity_max = 20000; SET GLOBAL innodb_io_capacity = 20000")
            self.sql("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0; SET GLOBAL innodb_max_dirty_pages_pct = 0")
            eventually(lambda: self.status("Innodb_buffer_pool_pages_dirty") < 200, within=_FLUSHED, every=0.5)
        self.restart()

    def status(self, name: str) -> int:
        """One of the server's counters."""
        return int(self.sql(f"SHOW GLOBAL STATUS LIKE '{name}'").split()[1])

    def purged(self, within: float = 120.0) -> int:
        """Wait until old row versions are gone, or long enough; how many transactions' are left."""
        try:
            eventually(lambda: self.status("Innodb_history_list_length") < 1_000, within=within, every=0.5)
        except AssertionError:
            print("the purge of earlier runs' row versions is not done", flush=True)
        return self.status("Innodb_history_list_length")


@contextmanager
def running_server(jobs: int) -> Iterator[MatchingServer]:
    """A MariaDB on the disk with room for so many jobs, ready for loading; AssertionError when the disk is too full."""
    with tempfile.TemporaryDirectory(prefix="penstock-matching-") as name:
        needed, free = jobs * BYTES_PER_JOB + (8 << 30), shutil.disk_usage(name).free
        assert free > needed, (
            f"{name}: {free / 1e9:.0f} GB are free, {needed / 1e9:.0f} GB are needed; make room or set TMPDIR elsewhere"
        )
        server = MatchingServer(Path(name))
        server.install()
        with server:
            yield server


@contextmanager
def running_consumers(database_url: str, broker_url: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`penstock consume matching`, twice, each with one worker process. Their logs are in `folder`."""
    environment = os.environ | {
        "PENSTOCK_DATABASE_URL": database_url,
        "PENSTOCK_BROKER_URL": broker_url,
        "PENSTOCK_DATA_DIR": str(folder),
        "PENSTOCK_CONSUMER_SLOTS": "1",
        "PENSTOCK_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "pipeline.cli", "consume", "matching"]
    consumers = []
    for number in range(CONSUMERS):
        with (folder / f"consumer{number}.log").open("wb") as log:
            consumers.append(subprocess.Popen(command, env=environment, stderr=log, stdout=log))
    try:
        yield consumers
    finally:
        for consumer in consumers:
            consumer.terminate()
        for consumer in consumers:
            consumer.wait(60)


def logs(folder: Path, most: int = 4_000) -> str:
    """The last that the consumers wrote."""
    return "\n".join(path.read_text()[-most:] for path in sorted(folder.glob("consumer*.log")))
