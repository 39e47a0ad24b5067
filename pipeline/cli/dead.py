"""`penstock dead`: messages that gave up, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import click

from pipeline.cli.direct import opened_database, opened_transport
from pipeline.cli.options import Moment, RowId, example, json_option, pass_settings
from pipeline.cli.output import show_list, show_one, warn
from pipeline.runtime.republication import read_message, requeue_dead
from pipeline.settings import Settings
from pipeline.store import messages as store
from pipeline.store.database import Database
from pipeline.store.messages import DeadLetter, DeadLetterFilter

F = TypeVar("F", bound=Callable[..., Any])
PAGE = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters a command means, as the options say it."""

    conditions: DeadLetterFilter
    since: datetime | timedelta | None

    def resolve(self, database: Database) -> DeadLetterFilter:
        """The filter; a time that reaches back does so from the database's clock."""
        if isinstance(self.since, timedelta):
            return replace(self.conditions, since=database.now() - self.since)
        return replace(self.conditions, since=self.since)


def filters(command: F) -> F:
    """The options that choose dead letters."""
    for option in (
        click.option("--since", type=Moment(), help="Buried since this time, or for no longer than this duration."),
        click.option("--reason", help="Text that their reason contains."),
        click.option("--type", "type_", help="Message type."),
        click.option("--queue", help="Queue."),
    ):
        command = option(command)
    return command


@click.group(epilog=example("penstock dead list --queue data", "penstock dead requeue --queue data --since 2h"))
def dead() -> None:
    """List, show, requeue and drop dead letters.

    A dead letter is a message that is never tried again; reconcile leaves the rows that it names alone
    until it is requeued.
    """


@dead.command("list", epilog=example("penstock dead list --queue matching --since 2h", "penstock dead list --json"))
@filters
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool, **options: Any) -> None:
    """List dead letters, the newest first."""
    with opened_database(settings) as database:
        wanted = _wanted((), options).resolve(database)
        letters = database.read(lambda tx: store.list_dead(tx, wanted, limit=limit))
    show_list(letters, ("id", "queue", "type", "attempts", "created_at", "reason"), as_json=as_json, of="dead letters")


@dead.command(epilog=example("penstock dead show 7"))
@click.argument("letter", type=RowId())
@json_option
@pass_settings
def show(settings: Settings, *, letter: int, as_json: bool) -> None:
    """Show a dead letter with its message and the traceback."""
    with opened_database(settings) as database:
        found = database.read(lambda tx: store.show_dead(tx, letter))
    show_one(found, as_json=as_json)


@dead.command(epilog=example("penstock dead requeue 7 8", "penstock dead requeue --queue data --since 2h"))
@click.argument("letters", nargs=-1, type=RowId())
@click.option("--all", "everything", is_flag=True, help="Every dead letter that meets the filters, or all of them.")
@filters
@pass_settings
def requeue(settings: Settings, /, *, letters: tuple[int, ...], everything: bool, **options: Any) -> None:
    """Publish dead letters again, at their first attempt."""
    wanted = _chosen(letters, options, everything=everything)
    count = 0
    with opened_database(settings) as database, opened_transport(settings) as transport:
        for part in _pages(database, wanted.resolve(database)):
            ids = [one.id for one in part if letters or _is_readable(one)]
            count += requeue_dead(settings, database, transport, ids)
    click.echo(f"{count} requeued")


@dead.command(epilog=example("penstock dead drop 7", "penstock dead drop --type Tick --all"))
@click.argument("letters", nargs=-1, type=RowId())
@click.option("--all", "everything", is_flag=True, help="Every dead letter that meets the filters, or all of them.")
@filters
@pass_settings
def drop(settings: Settings, /, *, letters: tuple[int, ...], everything: bool, **options: Any) -> None:
    """Delete dead letters; what they name stays as it is."""
    wanted = _chosen(letters, options, everything=everything)
    count = 0
    with opened_database(settings) as database:
        for part in _pages(database, wanted.resolve(database)):
            count += database.transact(partial(store.drop, letter_ids=[one.id for one in part]))
    click.echo(f"{count} dropped")


def _wanted(letters: tuple[int, ...], options: dict[str, Any]) -> Wanted:
    conditions = DeadLetterFilter(
        queue=options["queue"], type=options["type_"], reason=options["reason"], ids=letters or None
    )
    return Wanted(conditions, options["since"])


def _chosen(letters: tuple[int, ...], options: dict[str, Any], *, everything: bool) -> Wanted:
    if not letters and not everything and not any(options.values()):
        raise click.UsageError("Name dead letters by id or by a filter, or say --all.")
    return _wanted(letters, options)


def _pages(database: Database, wanted: DeadLetterFilter) -> Iterator[list[DeadLetter]]:
    """What meets the filter, page by page; ids that were named must all be there."""
    if wanted.ids is not None:
        for letter in wanted.ids:
            database.read(partial(store.show_dead, letter_id=letter))
    after: int | None = None
    while page := database.read(partial(store.list_dead, wanted=wanted, after=after, limit=PAGE)):
        yield page
        after = page[-1].id


def _is_readable(letter: DeadLetter) -> bool:
    """Whether it can be requeued; garbage among many is left behind with a warning."""
    try:
        read_message(letter.queue, letter.payload)
    except ValueError:
        warn(f"dead letter {letter.id} can't be read, so it stays; `penstock dead drop {letter.id}` deletes it")
        return False
    return True
