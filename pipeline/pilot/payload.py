"""The job's command as processes: a session of its own, a clean environment, an end that leaves nothing behind."""

import errno
import os
import resource
import signal
import subprocess
import threading
from typing import Any, Dict, NamedTuple, Sequence

from pipeline.pilot import processes
from pipeline.pilot.archive import LOGS
from pipeline.pilot.errors import InfrastructureFailed, PayloadFailed
from pipeline.pilot.warden import Warden

_OWN_FAULTS = frozenset(
    (
        errno.ENOENT,
        errno.EACCES,
        errno.ENOEXEC,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.E2BIG,
        errno.ENAMETOOLONG,
    )
)


class End(NamedTuple):
    """How the first process ended: code as a shell counts (128 + signal), cpu_time in seconds, memory in MiB."""

    exit_code: int
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
            processes.MARK: folder,
        }
    )
    return given


class Payload:
    """A started command. The thread that starts it must stay until `wait` returns: it dies with that thread."""

    def __init__(
        self, command: Sequence[str], variables: Dict[str, str], folder: str, logs: str, warden: Warden
    ) -> None:
        self._folder = folder
        self._warden = warden
        self._lock = threading.Lock()
        self._reaped = False
        self._process = _start(command, variables, folder, logs)
        self.session = self._process.pid
        warden.watch(self.session, folder)

    def wait(self) -> End:
        """Blocks until the first process ends, then ends whatever it left behind."""
        # WNOWAIT: while the process is not reaped its id can't belong to anybody else, so signals stay safe
        os.waitid(os.P_PID, self.session, os.WEXITED | os.WNOWAIT)
        processes.end_all(self.session, self._folder)
        with self._lock:
            _, status, usage = os.wait4(self.session, 0)
            self._reaped = True
        self._process.returncode = _code(status)
        self._warden.forget(self.session)
        return End(
            self._process.returncode, _words(status), usage.ru_utime + usage.ru_stime, -(-usage.ru_maxrss // 1024)
        )

    def stop(self, grace: float) -> None:
        """SIGTERM to the process group now, SIGKILL to all of its processes after `grace` seconds."""
        self._signal(signal.SIGTERM)
        killer = threading.Timer(grace, self._kill)
        killer.daemon = True
        killer.start()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            if not self._reaped:
                try:
                    os.killpg(self.session, number)
                except (ProcessLookupError, PermissionError):
                    return


def _start(command: Sequence[str], variables: Dict[str, str], folder: str, logs: str) -> "subprocess.Popen[bytes]":
    pilot = os.getpid()

    def settle() -> None:
        processes.die_with_parent()
        if os.getppid() != pilot:
            os._exit(127)  # the pilot died before the kernel was told
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    with open(os.path.join(logs, LOGS[0]), "wb") as output, open(os.path.join(logs, LOGS[1]), "wb") as errors:
        try:
            return subprocess.Popen(
                list(command),
                env=variables,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                preexec_fn=settle,  # noqa: PLW1509 - it takes no lock; nothing else can set these in the child
            )
        except ValueError as error:
            raise PayloadFailed("the command can't be run: {}".format(error)) from error
        except OSError as error:
            words = "the command {!r} can't be run: {}".format(command[0], os.strerror(error.errno or 0))
            if error.errno in _OWN_FAULTS:
                raise PayloadFailed(words) from error
            raise InfrastructureFailed(words) from error
        except subprocess.SubprocessError as error:
            raise InfrastructureFailed("the command {!r} can't be run: {}".format(command[0], error)) from error


def _code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _words(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return "exit code {}".format(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    try:
        return "ended by signal {} ({})".format(number, signal.Signals(number).name)
    except ValueError:
        return "ended by signal {}".format(number)
