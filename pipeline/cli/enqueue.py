"""`penstock enqueue`: publish a message by hand, held to the same rules as any other."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from pydantic import ValidationError

from pipeline.cli.direct import known_queue, opened_transport
from pipeline.cli.jobfile import first_complaint
from pipeline.cli.options import Ids, example, pass_settings
from pipeline.errors import BadInput
from pipeline.runtime.spec import find_consumer
from pipeline.settings import Settings
from schemas.messages import MAX_BYTES, Body, IdsBody, Message, about_ids


@click.command(
    epilog=example(
        "penstock enqueue optimisation JobsReceived --ids 1,2,3",
        "penstock enqueue pilots ProvisioningDue --body '{\"cycle\": 1}'",
        "penstock enqueue data FilesDue --body @files.json",
    )
)
@click.argument("queue")
@click.argument("type_name", metavar="TYPE")
@click.option("--ids", type=Ids(), help="What the message names; over 1,000 ids make several messages.")
@click.option("--body", help="The body as JSON; @FILE reads a file, - standard input.")
@pass_settings
def enqueue(settings: Settings, *, queue: str, type_name: str, ids: tuple[int, ...] | None, body: str | None) -> None:
    """Publish a message by hand.

    A message is a wake-up call: it is always safe to send one again. Prints the ids of the messages that
    the broker has confirmed.
    """
    known_queue(queue)
    catalogue = find_consumer(queue).catalogue()
    if type_name not in catalogue:
        raise BadInput(f"the queue {queue} takes no {type_name!r}; it takes {', '.join(sorted(catalogue))}")
    messages = _messages(catalogue[type_name], ids, body)
    with opened_transport(settings) as transport:
        transport.publish(messages)
    for message in messages:
        click.echo(str(message.id))


def _messages(kind: type[Body], ids: tuple[int, ...] | None, body: str | None) -> list[Message]:
    now = datetime.now(UTC)
    if (ids is None) == (body is None):
        raise click.UsageError("Give either --ids or --body.")
    if ids is not None:
        if not issubclass(kind, IdsBody):
            raise BadInput(f"{kind.type_name()} names no ids; give its --body as JSON")
        return about_ids(kind, ids, now=now)
    assert body is not None
    raw = _read(body)
    if len(raw) > MAX_BYTES:
        raise BadInput(f"--body: {len(raw)} bytes are over the limit of {MAX_BYTES} for a message; name fewer ids")
    try:
        message = Message.about(kind.model_validate_json(raw), now=now)
        message.encode()
    except ValidationError as error:
        raise BadInput(f"--body: {first_complaint(error)}") from error
    except ValueError as error:
        raise BadInput(f"--body: {error}") from error
    return [message]


def _read(body: str) -> bytes:
    if body == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    if not body.startswith("@"):
        return body.encode()
    try:
        with Path(body[1:]).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"--body: {body[1:]}: {error.strerror}") from error
