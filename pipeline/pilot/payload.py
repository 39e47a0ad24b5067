"""The job's command as processes, as the pilot sees it: started by a guardian, in a clean environment."""

import errno
import json
import os
import signal
from typing import Any, Dict, NamedTuple, Optional, Tuple

from pipeline.pilot.errors import InfrastructureFailed, PayloadFailed
from pipeline.pilot.guardian import Order
from pipeline.pilot.log import log
from pipeline.pilot.warden import Warden

_READ = 1 << 16
_MISSING = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_OWN_FAULTS = _MISSING | {0, errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.E2BIG, errno.ENAMETOOLONG}


class End(NamedTuple):
    """How it ended: code as a shell counts (128 + signal), why in a word and a sentence (nothing for code 0), cpu_time
    in seconds, memory in MiB."""

    exit_code: int
    minor: str
    reason: str
    cpu_time: float
    memory: int


def environment(job: Dict[str, Any], folder: str, scratch: str, gpus: Dict[str, str]) -> Dict[str, str]:
    """All that the payload gets to see: nothing of the pilot's own but PATH and LANG, and no GPUs but its own."""
    cores = str(job["cores"])
    given = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": folder,
        "TMPDIR": scratch,
        "OMP_NUM_THREADS": cores,
    }
    given.update({name: value for name, value in job["environment"].items() if not name.startswith("PENSTOCK_")})
    given.update(gpus)
    given.update(
        {
            "PENSTOCK_JOB_ID": str(job["job_id"]),
            "PENSTOCK_ATTEMPT": str(job["attempt"]),
            "PENSTOCK_CORES": cores,
            "PENSTOCK_JOB_DIR": folder,
        }
    )
    return given


class Payload:
    """A started command. `wait` belongs to one thread, the rest to any."""

    def __init__(self, order: Order, warden: Warden) -> None:
        """Raises PayloadFailed when it is no command that can be run, InfrastructureFailed when the node can't."""
        self._control = warden.guardian()
        self._unread = b""
        self._tell(order._asdict())
        answer = self._answer()
        if answer is None:
            raise _guardian_killed()
        if "pid" not in answer:
            self._control.close()
            raise _not_run(order.command[0], answer)
        self.pid = int(answer["pid"])
        self.guardian = int(answer["guardian"])

    def wait(self) -> End:
        """Blocks until the first process ended, and all that it left behind. Raises InfrastructureFailed."""
        answer = self._answer()
        self._control.close()
        if answer is None:
            raise _guardian_killed()
        status = int(answer["status"])
        minor, reason = _words(status)
        if answer["out_of_memory"]:
            minor, reason = "memory_limit", "memory limit: the kernel ended it"
        if answer["is_any_left"]:
            log("processes_left", pid=self.pid)  # the kernel can't kill them, as on a hung mount
        return End(_code(status), minor, reason, float(answer["cpu_time"]), int(answer["memory"]))

    def stop(self, number: int, grace: float) -> None:
        """This signal to its process group now, SIGKILL to all of its processes after `grace` seconds."""
        self._tell({"signal": number, "grace": grace})

    def _tell(self, words: Dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(words).encode() + b"\n")
        except OSError:
            return  # it has ended; whoever waits hears so

    def _answer(self) -> Optional[Dict[str, Any]]:
        while b"\n" not in self._unread:
            try:
                content = self._control.recv(_READ)
            except OSError:
                content = b""
            if not content:
                return None
            self._unread += content
        line, _, self._unread = self._unread.partition(b"\n")
        answer: Dict[str, Any] = json.loads(line.decode())
        return answer


def _guardian_killed() -> Exception:
    return InfrastructureFailed("the payload's guardian was killed", "guardian_killed")


def _not_run(program: str, answer: Dict[str, Any]) -> Exception:
    words = "the command {!r} can't be run: {}".format(program, answer["reason"])
    number = answer["errno"]
    if answer["by_node"] or number not in _OWN_FAULTS:
        return InfrastructureFailed(words, "start_failed")
    return PayloadFailed(words, "command_not_found" if number in _MISSING else "command_not_runnable")


def _code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _words(status: int) -> Tuple[str, str]:
    if not os.WIFSIGNALED(status):
        code = os.WEXITSTATUS(status)
        return ("exit_code", "exit code {}".format(code)) if code else ("", "")
    number = os.WTERMSIG(status)
    if number == signal.SIGXFSZ:
        return "disk_limit", "disk limit: a file of its own grew beyond it"
    try:
        name = " ({})".format(signal.Signals(number).name)
    except ValueError:
        name = ""
    return "signal", "ended by signal {}{}".format(number, name)
