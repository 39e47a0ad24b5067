"""`penstock pilots program`: the pilot's one file, for gateways and for a look inside."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from pipeline.cli.options import example
from pipeline.errors import BadInput
from pipeline.pilot import PROTOCOL, VERSION
from pipeline.pilot_archive import NAME, build


@click.command(epilog=example("penstock pilots program", "penstock pilots program --to /shared/penstock"))
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    default=NAME,
    show_default=True,
    help="Where to write it: a file, or a folder that is there.",
)
def program(target: Path) -> None:
    """Write the pilot program, which is the relay of sites without a network, too.

    The same release makes the same bytes. Batch jobs bring their own copy along.
    """
    try:
        path = build(target)
    except OSError as error:
        raise BadInput(f"{target} can't be written: {error.strerror}; name another place with --to") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    click.echo(f"{path}: version {VERSION}, protocol {PROTOCOL}, sha256 {digest}")
