"""The settings: parsed once, in the CLI, and handed down. Each is `PENSTOCK_` and its name in capitals."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import BadSettings

Seconds = PositiveFloat
_SOCKET_PATH_LIMIT = 100
LONGEST_DEADLINE = 360.0
"""Seconds that a batch may take at the most, so that deliveries are settled well within RabbitMQ's 30 minutes."""


class Settings(BaseSettings):
    """All settings of all processes. Times are seconds, sizes MiB unless a name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", frozen=True, extra="forbid")

    settings_file: Path | None = Field(
        default=None,
        description="a file of lines PENSTOCK_NAME=VALUE, read at the start and again at SIGHUP; the environment wins "
        "over it",
    )
    data_dir: Path = Field(
        default=Path("~/.local/share/penstock"), description="where the embedded database, broker and sandboxes live"
    )
    database_url: str = Field(
        default="", description="mysql://USER:PASSWORD@HOST:PORT/NAME, or sqlite:///PATH; empty: SQLite in `data_dir`"
    )
    broker_url: str = Field(
        default="",
        description="redis://, rediss:// or unix:// (Redis), amqp:// or amqps:// (RabbitMQ), stomp:// or stomp+ssl:// "
        "(ActiveMQ, RabbitMQ); empty: a private Redis in `data_dir`, run by `penstock up`",
    )
    sandbox_url: str = Field(
        default="", description="fsspec URL for sandboxes, logs and small outputs; empty: a folder in `data_dir`"
    )
    api_url: str = Field(
        default="",
        description="where clients and pilots reach the API; empty: what `penstock api` wrote into `data_dir`",
    )
    token: str = Field(default="", description="the client's token; empty: the file `token` in `data_dir`")

    api_host: str = Field(default="127.0.0.1", description="address that the API listens on")
    api_port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8470, description="its port; 0: any free one")
    api_tls_certificate: Path | None = Field(default=None, description="PEM file; with the key, the API speaks TLS")
    api_tls_key: Path | None = Field(default=None, description="PEM file")
    health_host: str = Field(default="127.0.0.1", description="address of /livez, /readyz, /metrics of other processes")
    health_port: Annotated[int, Field(ge=0, le=65535)] = Field(default=0, description="its port; 0: any free one")

    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="least level that is logged"
    )
    traces_url: str = Field(
        default="",
        pattern=r"^([a-z+]+://.+)?$",
        description="where traces of jobs go by OTLP over HTTP, http://HOST:4318/v1/traces say; empty: there are none",
    )
    traces_share: Annotated[float, Field(ge=0, le=1)] = Field(default=0.01, description="share of jobs that are traced")
    sandbox_limit: PositiveInt = Field(default=10, description="largest sandbox or archive, MiB")

    optimisers: tuple[str, ...] = Field(
        default=("sanity", "input_data", "placement"), description="the optimiser chain, in order (entry points)"
    )
    demand_sources: tuple[str, ...] = Field(
        default=("jobs",), description="what wants pilots: their demand is added up (entry points)"
    )
    schedules: dict[str, str] = Field(
        default={}, description="cron expressions (seconds as a sixth field) by trigger, over the declared ones"
    )
    consumer_slots: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="worker processes per queue of a consumer; for more start more consumers"
    )
    queue_wait: Seconds = Field(
        default=60.0, description="how long messages may wait in a queue: what the wanted number of consumers aims at"
    )
    least_workers: dict[str, NonNegativeInt] = Field(
        default={}, description='consumers wanted at least, by queue, {"data": 2} say; 1 for the others'
    )
    most_workers: dict[str, PositiveInt] = Field(
        default={}, description="consumers wanted at the most, by queue; 16 for the others"
    )
    drain_deadline: Seconds = Field(
        default=30.0, description="how long a stopping consumer may finish what is in flight"
    )
    message_attempts: PositiveInt = Field(default=5, description="attempts until a message becomes a dead letter")
    outside_age: Seconds = Field(
        default=86_400.0, description="age until a message that waits on something outside becomes a dead letter"
    )
    executor_deadline: Annotated[float, Field(gt=0, le=LONGEST_DEADLINE)] | None = Field(
        default=None, description="deadline of a batch over the consumers' own; at most 360, for RabbitMQ's sake"
    )
    campaign_window: PositiveInt = Field(default=4, description="messages of one campaign in a queue at a time")

    wake_after: Seconds = Field(default=30.0, description="least time until reconcile looks at a published row again")
    heartbeat_interval: Seconds = Field(default=10.0, description="what pilots are told")
    heartbeat_timeout: Seconds = Field(default=120.0, description="a pilot silent for so long stalls its jobs")
    pilot_lease: Seconds = Field(default=300.0, description="a pilot silent for so long is lost, its jobs start again")
    confirm_timeout: Seconds = Field(default=120.0, description="an assignment unconfirmed for so long goes back")
    silence_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="share of pilots silent together above which rescheduling pauses"
    )
    silence_least: PositiveInt = Field(default=10, description="silent pilots below which that rule does not apply")
    cool_off: Seconds = Field(default=60.0, description="first wait of a job that failed; doubles with each failure")
    cool_off_cap: Seconds = Field(default=3_600.0, description="longest wait of a job that failed")
    pilot_idle_limit: Seconds = Field(default=1_200.0, description="a pilot without jobs for so long ends itself")
    pilot_enrol_limit: Seconds = Field(
        default=600.0, description="a pilot that its batch system runs for so long without it enrolling is in trouble"
    )
    pilot_margin: Seconds = Field(default=300.0, description="a pilot ends so long before its wall time")
    pilot_max_failures: PositiveInt = Field(
        default=5, description="jobs failed in a row by its node until a pilot ends"
    )
    node_rest: Seconds = Field(default=3_600.0, description="a node that failed job after job gets no jobs for so long")
    share_half_life: Seconds = Field(
        default=7 * 86_400.0, description="usage counts for half after so long when shares are compared"
    )
    wide_patience: Seconds = Field(
        default=1_800.0, description="jobs that want several cores and have waited for so long go first where they fit"
    )
    wide_reserve: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="share of a VO's pilots, at least one, that may be emptied for such jobs; 0: none"
    )
    longest_wait: Seconds = Field(
        default=86_400.0, description="a job that has waited for so long goes before its owner's others of any priority"
    )
    retention_days: PositiveFloat = Field(
        default=30.0, description="finished campaigns, events and messages are kept so long"
    )

    def resolved_data_dir(self) -> Path:
        """`data_dir` as an absolute path."""
        return self.data_dir.expanduser().absolute()

    def resolved_database_url(self) -> str:
        """The database's URL, the embedded default filled in."""
        return self.database_url or f"sqlite:///{self.resolved_data_dir() / 'penstock.db'}"

    def redis_socket(self) -> Path:
        """The socket of the private Redis; in the temporary folder where `data_dir` makes too long a path for one."""
        path = self.resolved_data_dir() / "redis.sock"
        if len(str(path)) <= _SOCKET_PATH_LIMIT:
            return path
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"penstock-{digest}.sock"

    def resolved_broker_url(self) -> str:
        """The broker's URL, the embedded default filled in."""
        return self.broker_url or f"unix://{self.redis_socket()}"

    def resolved_sandbox_url(self) -> str:
        """The sandboxes' URL, the embedded default filled in."""
        return self.sandbox_url or f"file://{self.resolved_data_dir() / 'sandboxes'}"

    def resolved_api_url(self) -> str:
        """Where the API is. Raises BadSettings when nothing says it."""
        if self.api_url:
            return self.api_url.rstrip("/")
        note = self.resolved_data_dir() / "api.url"
        if note.exists():
            return note.read_text().strip()
        raise BadSettings(
            f"no API is known: there is no {note}; set PENSTOCK_DATA_DIR as `penstock up` has it (and wait for its "
            "`ready`), or set PENSTOCK_API_URL"
        )

    def resolved_token(self) -> str:
        """The client's token. Raises BadSettings when there is none."""
        if self.token:
            return self.token
        note = self.resolved_data_dir() / "token"
        if note.exists():
            return note.read_text().strip()
        raise BadSettings(f"no token: set PENSTOCK_TOKEN, or run `penstock tokens create` (no {note})")
