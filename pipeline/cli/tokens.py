"""`penstock tokens`: who may call the API."""

from __future__ import annotations

import re

import click

from pipeline.cli.direct import opened_database
from pipeline.cli.options import Duration, RowId, example, json_option, pass_settings
from pipeline.cli.output import cells, print_json, show_list
from pipeline.cli.remote import asked, gather
from pipeline.client import open_client
from pipeline.errors import BadInput
from pipeline.settings import Settings
from pipeline.store import access
from schemas.api import Page, TokenRequest

_VO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@click.group(epilog=example("penstock tokens create alice", "penstock tokens list"))
def tokens() -> None:
    """Create, list and revoke tokens."""


@tokens.command(
    epilog=example(
        "penstock tokens create alice --group muons --expires-in 30d", "penstock tokens create ci --role monitor"
    )
)
@click.argument("subject")
@click.option(
    "--role",
    type=click.Choice(["user", "operator", "monitor"]),
    default="user",
    show_default=True,
    help="What it may do.",
)
@click.option("--issuer", default="penstock", show_default=True, help="Who vouches for that name.")
@click.option("--group", default="default", show_default=True, help="Share group of a person who is not known yet.")
@click.option("--name", default="", help="What the token is for.")
@click.option("--expires-in", type=Duration(), help="Until it expires, such as 30d; left out: never.")
@json_option
@pass_settings
def create(settings: Settings, /, *, as_json: bool, **wanted: object) -> None:
    """Create a token for SUBJECT, in your VO.

    The token is printed this once: PENSTOCK_TOKEN is where its owner puts it.
    """
    request = asked(TokenRequest, **wanted)
    with open_client(settings) as client:
        reply = client.create_token(request)
    if as_json:
        print_json(cells(reply))
    else:
        click.echo(reply.token)


@tokens.command("list", epilog=example("penstock tokens list", "penstock tokens list --json"))
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_settings
def list_(settings: Settings, /, *, limit: int, as_json: bool) -> None:
    """List the tokens of your VO, without their secrets."""
    with open_client(settings) as client:
        found = gather(client.tokens, Page(), limit)
    columns = ("id", "subject", "role", "group", "name", "created_at", "expires_at", "revoked_at")
    show_list(found, columns, as_json=as_json, of="tokens")


@tokens.command(epilog=example("penstock tokens revoke 3"))
@click.argument("token_id", metavar="ID", type=RowId())
@pass_settings
def revoke(settings: Settings, /, *, token_id: int) -> None:
    """Revoke a token, at once and for good."""
    with open_client(settings) as client:
        view = client.revoke_token(token_id)
    click.echo(f"token {view.id} of {view.subject}: revoked")


@tokens.command(epilog=example("penstock tokens bootstrap", "penstock tokens bootstrap --vo cms --subject alice"))
@click.option("--vo", default="default", show_default=True, help="The VO, made if there is none.")
@click.option("--subject", default="operator", show_default=True, help="Whose token it is.")
@pass_settings
def bootstrap(settings: Settings, /, *, vo: str, subject: str) -> None:
    """Make an operator's token in the database, past the API.

    The way to the first token of an installation, and to a new VO. Prints it.
    """
    if not _VO_NAME.fullmatch(vo):
        raise BadInput(f"--vo: {vo!r} is no name of a VO; use letters, digits, dots, dashes, 63 at most")
    with opened_database(settings) as database:
        click.echo(database.transact(lambda tx: access.bootstrap(tx, vo=vo, subject=subject)))
