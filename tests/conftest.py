"""Fixtures for all tests: the real servers, started once a session when a test first asks for them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from structlog.types import EventDict
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from pipeline.store.database import Database
from pipeline.store.tables import metadata
from tests.activemq import ActiveMqServer, running_activemq
from tests.arex import ArexServer, running_arex
from tests.htcondor import HtcondorPool, running_htcondor
from tests.rabbitmq import RabbitMqServer, running_rabbitmq
from tests.servers import MariaDbServer, RedisServer, running_mariadb, running_redis
from tests.slurm import SlurmServer, running_slurm
from tests.sshd import SshServer, running_sshd

# to see which container runtimes work takes each pilot half a second; tests of containers say otherwise
os.environ.setdefault("PENSTOCK_PILOT_CONTAINERS", "none")
settings.register_profile("penstock", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("penstock")


def _warnings_alone(_logger: object, method: str, event: EventDict) -> EventDict:
    """What a process's log would say of all that goes well is no output of the commands that tests run in theirs."""
    if method in {"debug", "info"}:
        raise structlog.DropEvent
    return event


structlog.configure(processors=[_warnings_alone, *structlog.get_config()["processors"]])

OVER_BATCH_SYSTEMS = {"test_batch_systems.py", "test_killed_provisioning.py"}
ON_HTCONDOR = {"test_htcondor_batch.py", "test_three_sites.py"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a run may be told."""
    parser.addoption("--transport-url", help="try the transport behind this URL instead of ours")
    parser.addoption("--seed", type=int, help="repeat the random faults of the run that printed this seed")


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """What of the tests goes to one worker as a whole: a file, or one batch system's part of tests that take them all.

    All that needs HTCondor is one group, since a pool takes longest to start.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, rest = nodeid.partition("::")
        name = Path(file).name
        system = rest.partition("[")[2].rstrip("]") if name in OVER_BATCH_SYSTEMS else ""
        return "htcondor" if system == "htcondor" or name in ON_HTCONDOR else file + system


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """pytest-xdist 3.8's own `loadgroup` knows no groups with pytest 9.2, and says nothing of it."""
    return Groups(config, log)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where random faults begin; printed, so that pytest shows it with a failure."""
    given: int | None = request.config.getoption("--seed")
    chosen = secrets.randbelow(1 << 32) if given is None else given
    print(f"repeat with --seed {chosen}")
    return chosen


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis, shared by all tests of the session; a test that minds what others left flushes it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """A private MariaDB; each test asks it for a `new_database()`."""
    with running_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMqServer]:
    """A private RabbitMQ, shared by all tests of the session; a test makes a vhost of its own."""
    with running_rabbitmq() as server:
        yield server


@pytest.fixture(scope="session")
def activemq_server() -> Iterator[ActiveMqServer]:
    """A private ActiveMQ, shared by all tests of the session; a test takes queue names of its own."""
    with running_activemq() as server:
        yield server


@pytest.fixture(scope="session")
def slurm_server() -> Iterator[SlurmServer]:
    """A private Slurm without accounting, shared by all tests of the session; a test removes its own jobs."""
    with running_slurm() as server:
        yield server


@pytest.fixture(scope="session")
def login_node(slurm_server: SlurmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """The login node of the private Slurm, with a home of its own."""
    home = tmp_path_factory.mktemp("home")
    with running_sshd({"SLURM_CONF": str(slurm_server.conf), "HOME": str(home)}) as server:
        yield server


@pytest.fixture(scope="session")
def htcondor_pool() -> Iterator[HtcondorPool]:
    """A private HTCondor pool of 20 cores, shared by all tests of the session; a test removes its own jobs."""
    with running_htcondor() as pool:
        yield pool


@pytest.fixture(scope="module")
def arex_server() -> Iterator[ArexServer]:
    """A private ARC compute element, shared by a file's tests, since it is never idle; its jobs run as nobody."""
    with running_arex() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database that has the schema and nothing else, to be copied: ten times as fast as making one."""
    file = tmp_path_factory.mktemp("schema") / "empty.db"
    made = Database(f"sqlite:///{file}")
    metadata.create_all(made.engine)
    made.close()
    return file


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh database with the schema, on each of the two real engines."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_file"), tmp_path / "test.db")
        opened = Database(f"sqlite:///{tmp_path / 'test.db'}")
        yield opened
        opened.close()
    else:
        yield request.getfixturevalue("mariadb")


@pytest.fixture
def mariadb(mariadb_server: MariaDbServer) -> Iterator[Database]:
    """A fresh database with the schema, on MariaDB alone: two transactions at once need one that has them."""
    opened = Database(mariadb_server.new_database())
    metadata.create_all(opened.engine)
    yield opened
    opened.close()
    mariadb_server.drop_database(opened.url)
