"""The command line of the pilot: options, enrolment, work."""

import argparse
import os
import socket
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from pipeline.pilot import PROTOCOL, VERSION, cgroups, containers, durable, folders, gpus, node, processes, relay
from pipeline.pilot.bell import Bell
from pipeline.pilot.client import Backoff, Client
from pipeline.pilot.errors import ApiError, BadOptions, Refused, Unreachable
from pipeline.pilot.execution import Node
from pipeline.pilot.log import log
from pipeline.pilot.pilot import Machine, Pilot, Terms
from pipeline.pilot.warden import Warden

_PREFIX = "PENSTOCK_PILOT_"
_ENROL_WITHIN = 1800.0
T = TypeVar("T")


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs a pilot to its end. 0: orderly end; 1: sent away, or never let in; 2: bad options."""
    began = time.monotonic()
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["relay"]:
        return relay.main(words[1:])
    processes.hide_from_payloads()
    options = _parser().parse_args(words)
    try:
        client = Client(_required(options, "api_url"))
        secret = _secret(options.secret_file)
        machine = _machine(options)
    except (BadOptions, OSError) as error:
        sys.stderr.write("penstock-pilot: {}\n".format(error))
        return 2
    enrolment = {
        "protocol": PROTOCOL,
        "secret": secret,
        "tag": _required(options, "tag"),
        "version": VERSION,
        "node": node.describe(
            options.host or socket.gethostname(),
            machine.totals,
            machine.node.gpus,
            [one.name for one in machine.node.runtimes],
        ),
    }
    patience = options.lifetime or options.idle_limit or _ENROL_WITHIN
    reply = _enrol(client, enrolment, machine.bell, began + patience)
    if reply is None:
        return 1
    client.authorise(reply["token"])
    terms = _terms(reply, options, began)
    log("pilot_enrolled", pilot_id=terms.pilot_id, **machine.totals._asdict())
    return Pilot(client, terms, machine).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-pilot",
        description="Runs Penstock jobs on this worker node. Each option may also be given as "
        "a variable: PENSTOCK_PILOT_API_URL for --api-url. The enrolment secret: PENSTOCK_PILOT_SECRET, or a file. "
        "`penstock-pilot relay --help` tells how pilots without a network reach the API.",
    )
    parser.add_argument("--version", action="version", version=VERSION)

    def add(name: str, kind: Callable[[str], Any], meaning: str, default: Optional[str] = None) -> None:
        # argparse converts string defaults too, so a wrong variable is reported like a wrong option
        variable = _PREFIX + name[2:].replace("-", "_").upper()
        parser.add_argument(name, type=kind, default=os.environ.get(variable) or default, help=meaning)

    add("--api-url", str, "where the API is: http://, https://, or spool:/FOLDER of a relay")
    add("--tag", str, "the row id that the submission carried")
    add("--host", str, "what the node is called, if its own name tells it from no other (default: its host name)")
    add("--secret-file", str, "file with the enrolment secret; it is removed once it is read")
    add("--cores", _positive(int), "cores to offer (default: those that this process may use)")
    add("--memory", _positive(int), "memory to offer, MiB (default: the node's)")
    add("--disk", _positive(int), "scratch space to offer, MiB (default: what is free in the work directory)")
    add("--gpus", _count, "GPUs to offer (default: those that this process may use; never more than those)")
    add(
        "--containers",
        _runtimes,
        "container runtimes to offer: auto, none, or names (default: auto, those that work)",
        "auto",
    )
    add("--cgroups", _is_auto, "control groups for jobs: auto or none (default: auto, where they may be made)", "auto")
    add("--lifetime", _positive(float), "seconds until the pilot must have ended (default: what the API says)")
    add("--idle-limit", _positive(float), "seconds without a job until it ends (default: what the API says)")
    add("--workdir", str, "work directory (default: penstock-pilot-TAG in TMPDIR, else here)")
    return parser


def _positive(kind: Callable[[str], T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        value = kind(text)
        if not float(text) > 0:
            raise argparse.ArgumentTypeError("must be more than 0, not {}".format(text))
        return value

    return parse


def _is_auto(text: str) -> bool:
    if text not in ("auto", "none"):
        raise argparse.ArgumentTypeError("must be auto or none, not {}".format(text))
    return text == "auto"


def _runtimes(text: str) -> Tuple[str, ...]:
    names = containers.NAMES if text == "auto" else tuple(name for name in text.split(",") if name != "none")
    for name in names:
        if name not in containers.NAMES:
            raise argparse.ArgumentTypeError("must be of {}, not {}".format(", ".join(containers.NAMES), name))
    return names


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be less than 0, not {}".format(text))
    return value


def _required(options: argparse.Namespace, name: str) -> str:
    value = getattr(options, name)
    if not value:
        raise BadOptions("give --{} or set {}{}".format(name.replace("_", "-"), _PREFIX, name.upper()))
    return str(value)


def _secret(path: Optional[str]) -> str:
    # taken out of the environment, so that no child inherits it
    secret = os.environ.pop(_PREFIX + "SECRET", "")
    if path:
        with open(path, encoding="utf-8") as stream:
            secret = stream.read().strip()
        _forget(path)
    if not secret:
        raise BadOptions("no enrolment secret: give --secret-file or set {}SECRET".format(_PREFIX))
    return secret


def _forget(path: str) -> None:
    """Payloads run under the same account, and the secret is not for them."""
    try:
        durable.remove(path)
    except OSError as error:
        log("secret_kept", error=str(error))


def _machine(options: argparse.Namespace) -> Machine:
    tag = _required(options, "tag")
    name = "penstock-pilot-" + "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in tag)
    workdir = os.path.realpath(options.workdir or os.path.join(os.environ.get("TMPDIR") or os.getcwd(), name))
    made = folders.make(workdir)
    found = gpus.find()
    found = found._replace(devices=found.devices[: options.gpus])
    measured = node.measure(workdir, found)
    wanted = {name: getattr(options, name) for name in ("cores", "memory", "disk") if getattr(options, name)}
    runtimes = containers.find(made.containers, options.containers)
    home = cgroups.find() if options.cgroups else ""
    warden = Warden(cgroups.settle(home, "penstock-{}".format(os.getpid())), runtimes)
    return Machine(measured._replace(**wanted), made, Bell(), Node(warden, found, runtimes))


def _enrol(client: Client, enrolment: Dict[str, Any], bell: Bell, until: float) -> Optional[Dict[str, Any]]:
    """The reply; None when the API does not want this pilot, can't be reached for too long, or SIGTERM came.

    An API of an earlier release refuses what it does not know, and is told in its own words.
    """
    backoff = Backoff()
    while not bell.stop_asked:
        try:
            return client.post("/v1/pilots/enrol", enrolment)
        except Unreachable as error:
            seconds = backoff.next(error.after)
            log("enrolment_delayed", seconds=round(seconds, 1), error=str(error))
            if time.monotonic() + seconds > until:
                return None
            bell.wait(seconds)
        except ApiError as error:
            older = node.in_older_words(enrolment["node"])
            if isinstance(error, Refused) and error.is_about_words and older is not None:
                log("enrolment_in_older_words", error=str(error))
                enrolment = {**enrolment, "node": older}
                continue
            log("enrolment_refused", error=str(error))
            return None
    return None


def _terms(reply: Dict[str, Any], options: argparse.Namespace, began: float) -> Terms:
    """The stricter of what the API says (from now on) and what the options say (from the start on)."""
    now = time.monotonic()
    deadline = now + reply["lifetime"]
    if options.lifetime:
        deadline = min(deadline, began + options.lifetime)
    return Terms(
        int(reply["pilot_id"]),
        float(reply["heartbeat_interval"]),
        deadline - now,
        deadline,
        min(reply["idle_limit"], options.idle_limit or reply["idle_limit"]),
        int(reply["max_failures"]),
    )


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # daemon threads may sit in a long request; finalising around them can crash old interpreters
