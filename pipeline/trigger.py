"""What a trigger declares: a name, a cron expression, and the message that its tick is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points

from croniter import croniter
from croniter.croniter import CroniterError

from pipeline.errors import BadSettings
from pipeline.settings import Settings
from schemas.messages import Body, Tick


def tick(name: str) -> Callable[[datetime], Body]:
    """The usual body: a Tick of that name, for the upkeep executor."""
    return lambda scheduled_for: Tick(name=name, scheduled_for=scheduled_for)


def always(settings: Settings) -> bool:
    """A tick that these settings want, as all do."""
    del settings
    return True


@dataclass(frozen=True, slots=True)
class Trigger:
    """One line of the schedule. Raises BadSettings for a bad expression.

    Whoever executes the message marks the tick in `trigger_runs`; while one is in its queue and not marked, the
    next ones are skipped.
    """

    name: str
    schedule: str
    """A cron expression in UTC; a sixth field, if there is one, is seconds."""
    body: Callable[[datetime], Body]
    grace: float = 60.0
    """Seconds after which a missed tick is skipped."""
    since: str = ""
    """The release of Penstock that first had it. Where an earlier one serves the queue, which would bury the tick, it
    waits, and where nobody does whose release is known: stock RQ workers do not tell theirs."""
    wanted: Callable[[Settings], bool] = always
    """Whether there is anything to do with these settings; else there are no ticks."""

    def __post_init__(self) -> None:
        try:
            croniter(self.schedule)
        except (CroniterError, ValueError) as error:
            raise BadSettings(f"trigger {self.name}: {self.schedule!r} is no cron expression: {error}") from error

    def last_due(self, now: datetime) -> datetime:
        """The latest tick at or before `now`."""
        just_after = now + timedelta(microseconds=1)
        due: datetime = croniter(self.schedule, just_after.astimezone(UTC)).get_prev(datetime)
        return due.astimezone(UTC)

    def next_due(self, after: datetime) -> datetime:
        """The earliest tick after a moment."""
        due: datetime = croniter(self.schedule, after.astimezone(UTC)).get_next(datetime)
        return due.astimezone(UTC)

    def period(self, now: datetime) -> float:
        """Seconds between the tick before `now` and the one after it."""
        last = self.last_due(now)
        return (self.next_due(last) - last).total_seconds()


def find_triggers(settings: Settings) -> Mapping[str, Trigger]:
    """Every declared trigger by name that is wanted, with the schedules that settings put over the declared ones."""
    declared: list[Trigger] = []
    for entry in entry_points(group="penstock.triggers"):
        found: Sequence[Trigger] = entry.load()
        declared += found
    by_name = {trigger.name: trigger for trigger in declared}
    unknown = set(settings.schedules) - set(by_name)
    if unknown:
        raise BadSettings(f"PENSTOCK_SCHEDULES names {min(unknown)!r}; there are {', '.join(sorted(by_name))}")
    by_name |= {name: replace(by_name[name], schedule=text) for name, text in settings.schedules.items()}
    return {name: trigger for name, trigger in by_name.items() if trigger.wanted(settings)}
