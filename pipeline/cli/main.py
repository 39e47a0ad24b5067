"""`penstock`: the list of commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from pipeline.cli.lazy import Lazy, LazyGroup
from pipeline.cli.session import Session
from pipeline.cli.words import one_line
from pipeline.errors import PenstockError

INTERRUPTED = 130
"""What shells say of a process that SIGINT ended."""

SECTIONS = {
    "For users": {
        "submit": Lazy("pipeline.cli.submit:submit", "Submit a campaign from a job file."),
        "campaigns": Lazy("pipeline.cli.campaigns:campaigns", "List, show, pause, resume, cancel, retry, accept."),
        "jobs": Lazy("pipeline.cli.jobs:jobs", "List, show, explain, kill and retry jobs; fetch what they left."),
        "files": Lazy("pipeline.cli.files:files", "List files of the catalogue."),
        "shares": Lazy("pipeline.cli.shares:shares", "Show what your VO's groups and owners are to get, and got."),
        "limits": Lazy("pipeline.cli.limits:limits", "Show every limit that concerns your VO, and how full it is."),
        "match": Lazy("pipeline.cli.match:match", "Show what a node would get now; nothing is assigned."),
        "completion": Lazy("pipeline.cli.completion:completion", "Print the shell's completion script."),
    },
    "For operators: processes": {
        "up": Lazy("pipeline.cli.up:up", "Run everything on one machine.", reloads=True),
        "api": Lazy("pipeline.cli.api:api", "Run the HTTP API.", reloads=True),
        "consume": Lazy("pipeline.cli.consume:consume", "Run a consumer of one or several queues.", reloads=True),
        "triggers": Lazy("pipeline.cli.triggers:triggers", "Run the clock that publishes what is due.", reloads=True),
        "redis": Lazy("pipeline.cli.redis:redis", "Run the private Redis, for a Procfile without a broker."),
        "instances": Lazy("pipeline.cli.instances:instances", "List the processes that run."),
        "scale": Lazy("pipeline.cli.scale:scale", "Let N processes of `penstock up` serve a queue; list how many do."),
        "drain": Lazy(
            "pipeline.cli.drain:drain", "End processes, or empty a site, a VO or everything, after their work."
        ),
        "drains": Lazy("pipeline.cli.drain:drains", "List drains, or show what is left of one, and why."),
        "undrain": Lazy("pipeline.cli.drain:undrain", "Take a drain back, with its own bans and nobody else's."),
    },
    "For operators: messages": {
        "queues": Lazy("pipeline.cli.queues:queues", "Show how full each queue is and who serves it."),
        "pause": Lazy("pipeline.cli.queues:pause", "Let the consumers of a queue stop receiving."),
        "resume": Lazy("pipeline.cli.queues:resume", "Take a pause or drain of a queue back."),
        "enqueue": Lazy("pipeline.cli.enqueue:enqueue", "Publish a message by hand."),
        "dead": Lazy("pipeline.cli.dead:dead", "List, show, requeue and drop dead letters."),
        "trigger": Lazy("pipeline.cli.trigger:trigger", "List the triggers; publish a tick now."),
    },
    "For operators: resources": {
        "sites": Lazy("pipeline.cli.sites:sites", "Apply the sites file; list, ban, test and allow sites."),
        "policy": Lazy("pipeline.cli.policy:policy", "Apply and show your VO's shares and limits."),
        "pilots": Lazy(
            "pipeline.cli.pilots:pilots", "List, show, submit, drain and kill pilots; show what is planned."
        ),
        "tokens": Lazy("pipeline.cli.tokens:tokens", "Create, list and revoke tokens."),
        "db": Lazy("pipeline.cli.db:db", "Upgrade or check the database's schema."),
        "doctor": Lazy("pipeline.cli.doctor:doctor", "Check settings, database, broker and clocks."),
    },
}

PROCESSES = {"api": "api", "consume": "consumer", "triggers": "triggers"}
"""Commands that are processes of an orchestrator, and what their logs call them. Such a one that does not start says so
as a line of its log where nobody sits at a terminal."""


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    name="penstock",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Settings come from the environment (PENSTOCK_...) and from the file that PENSTOCK_SETTINGS_FILE names. "
    "Every command's --help has an example. Times are UTC.",
)
@click.version_option(package_name="penstock", message="penstock %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Penstock, a workload management system for computing on many sites."""
    session = ctx.ensure_object(Session)
    session.debug = debug
    session.process = PROCESSES.get(ctx.invoked_subcommand or "")


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code: 0, 1 for a failure, 2 for bad input."""
    session = Session()
    try:
        code = cli.main(list(arguments), prog_name="penstock", standalone_mode=False, obj=session)
    except PenstockError as error:
        _refuse(session, error, str(error))
        return error.exit_code
    except click.ClickException as error:
        _complain(session, error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read us has enough; and nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point of `penstock`."""
    sys.exit(run(sys.argv[1:]))


def _refuse(session: Session, error: Exception, message: str) -> None:
    """One line on stderr, whatever the message holds; its traceback where it is wanted and tells more."""
    wanted = session.debug and isinstance(error, PenstockError)
    if session.process is not None and not sys.stderr.isatty():
        from pipeline.logs import log_refusal  # noqa: PLC0415 - no other command need wait for its import

        log_refusal(session.settings, session.process, error, one_line(message), traceback=wanted)
        return
    if wanted:
        traceback.print_exc()
    click.echo(f"{click.style('penstock:', fg='red')} {one_line(message)}", err=True)


def _complain(session: Session, error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)  # a group without a command: its help, as it is
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        _refuse(session, error, f"{error.format_message()} See `{error.ctx.command_path} --help`.")
    else:
        _refuse(session, error, error.format_message())
