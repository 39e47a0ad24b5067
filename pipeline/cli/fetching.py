"""Bringing what a job left into a folder of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from pipeline.cli.output import warn
from pipeline.client import Client
from pipeline.errors import BadInput, NotFound
from pipeline.unpacking import unpack
from schemas.api import FileView


def fetch_outputs(client: Client, job_id: int, folder: Path) -> int:
    """Unpack a job's archive into `folder` and copy its outputs there; how many outputs could not be copied.

    Prints each file. Raises NotFound, BadInput.
    """
    outputs = client.outputs(job_id)
    try:
        names = unpack(client.archive(job_id), folder)
    except NotFound as error:
        if not outputs:
            raise
        warn(str(error))
        names = []
    except OSError as error:
        raise BadInput(f"{error.filename or folder}: {error.strerror or error}") from error
    for name in names:
        click.echo(str(folder / name))
    return sum(not _copy(file, folder) for file in outputs)


def _copy(file: FileView, folder: Path) -> bool:
    urls = [replica.url for replica in file.replicas if replica.state != "lost"]
    for url in urls:
        source = Path(unquote(urlsplit(url).path))
        if urlsplit(url).scheme == "file" and source.exists():
            target = folder / Path(file.name).name
            try:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except OSError as error:
                raise BadInput(f"{target}: {error.strerror or error}") from error
            click.echo(str(target))
            return True
    warn(f"{file.name} can't be copied from this machine; it is at {' '.join(urls) or 'no storage any more'}")
    return False
