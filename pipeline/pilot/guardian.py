"""One payload's keeper: a process that starts it, keeps its output, and ends all that descends from it.

Daemons can't leave: what loses its parent becomes the guardian's own child. When the pilot is gone, the guardian ends
the payload and removes its files. It speaks over a socket, one JSON object a line: it reads an `Order`, answers
`{"pid": ...}` or `{"errno": ..., "reason": ...}`, heeds `{"signal": ..., "grace": ...}`, and last says how it `End`ed.
"""

import json
import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence

from pipeline.pilot import cgroups, folders, processes
from pipeline.pilot.streams import Stream

_PATIENCE = 15.0
"""Seconds until it gives up on what can't be killed, and as many on the container runtime."""
_OOM_SCORE = b"500"
"""Payloads go before the pilot and its neighbours when the node has no memory left."""
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RESTORED = (*_IGNORED, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
_READ = 1 << 16
_MIB = 1 << 20


class Order(NamedTuple):
    """What to run, and where.

    `logs` are the files for its output and errors, `file_size` the most bytes of one file, `group` its control group,
    `cleanup` what to run when it has ended, `leavings` the folders to remove if the pilot is gone. Empty: none.
    """

    command: Sequence[str]
    environment: Dict[str, str]
    folder: str
    logs: Sequence[str]
    file_size: int
    group: str
    cleanup: Sequence[str]
    leavings: Sequence[str]


class End(NamedTuple):
    """How the payload ended. `status` is its first process's, as wait tells it; the rest is of all its processes:
    seconds, MiB (of the largest one, where there is no control group), whether the kernel killed any for its memory,
    and whether some could not be killed."""

    status: int
    cpu_time: float
    memory: int
    out_of_memory: bool
    is_any_left: bool


def guard(control: socket.socket) -> NoReturn:
    """The guardian's whole life, in a process that was forked for it and has one thread."""
    try:
        os.setsid()
        processes.adopt_orphans()
        _Guardian(control).run()
    finally:
        os._exit(0)


class _Guardian:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._unread = b""
        self._woken = processes.wake_at_ends()
        self._statuses: Dict[int, int] = {}
        self._kill_at: Optional[float] = None
        self._is_pilot_gone = False

    def run(self) -> None:
        order = self._order()
        if order is None:
            return
        streams = [Stream(path) for path in order.logs]
        pid = self._start(order, streams)
        if pid:
            for stream in streams:
                stream.started()
            self._watch(pid, streams)
            end = self._end(order, pid)
            for stream in streams:
                stream.finish()
            self._say(end._asdict())
        if self._is_pilot_gone:
            for folder in order.leavings:
                folders.remove(folder)

    def _order(self) -> Optional[Order]:
        while not self._is_pilot_gone:
            for words in self._heard():
                return Order(**words)
        return None

    def _start(self, order: Order, streams: Sequence[Stream]) -> int:
        """The payload's process id; 0 when it can't be run, which was said then."""
        reader, writer = os.pipe()
        guardian = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(order, [stream.writer for stream in streams], writer, guardian)
        os.close(writer)
        with os.fdopen(reader, "rb") as failure:
            why = failure.read()
        if why:
            os.waitpid(pid, 0)
            cgroups.remove(order.group)
            self._say(json.loads(why.decode()))
            return 0
        self._say({"pid": pid, "guardian": guardian})
        return pid

    def _watch(self, pid: int, streams: Sequence[Stream]) -> None:
        """Until its first process ends, the pilot is gone, or its time is over."""
        writing = {stream.reader: stream for stream in streams}
        while pid not in self._statuses and not self._is_pilot_gone:
            left = None if self._kill_at is None else self._kill_at - time.monotonic()
            if left is not None and left <= 0:
                return
            ready, _, _ = select.select([self._control.fileno(), self._woken, *writing], [], [], left)
            for descriptor in ready:
                if descriptor in writing and not writing[descriptor].copy():
                    del writing[descriptor]
            if self._woken in ready:
                os.read(self._woken, _READ)
                self._reap()
            if self._control.fileno() in ready:
                for words in self._heard():
                    self._heed(words, pid)

    def _heed(self, words: Dict[str, Any], pid: int) -> None:
        if pid not in self._statuses:  # it is not reaped: its id can't belong to anybody else
            with suppress(OSError):
                os.killpg(pid, words["signal"])
        kill_at = time.monotonic() + words["grace"]
        self._kill_at = min(kill_at, self._kill_at or kill_at)

    def _end(self, order: Order, pid: int) -> End:
        """Nothing that it has started is left, as far as that is possible."""
        if order.cleanup:
            self._clean_up(order)
        cgroups.kill(order.group)
        ended = processes.end_descendants(self._reap, _PATIENCE)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = cgroups.memory_peak(order.group) or usage.ru_maxrss * 1024
        end = End(
            self._statuses.get(pid, int(signal.SIGKILL)),
            cgroups.cpu_time(order.group) or usage.ru_utime + usage.ru_stime,
            -(-memory // _MIB),
            cgroups.oom_kills(order.group) > 0,
            not ended,
        )
        cgroups.remove(order.group)
        return end

    def _clean_up(self, order: Order) -> None:
        pid = os.fork()
        if pid == 0:
            silence = os.open(os.devnull, os.O_RDWR)
            _become(
                order._replace(command=order.cleanup, folder="/", group=""), [silence, silence], silence, os.getppid()
            )
        until = time.monotonic() + _PATIENCE
        while self._reap() and pid not in self._statuses and time.monotonic() < until:
            select.select([self._woken], [], [], 0.05)
            with suppress(BlockingIOError):
                os.read(self._woken, _READ)

    def _reap(self) -> bool:
        """Whether there are children still; without one, nothing descends from this process."""
        return processes.reap(self._statuses.__setitem__)

    def _heard(self) -> Iterator[Dict[str, Any]]:
        """What the pilot says; a guardian that hears no more has no pilot."""
        try:
            content = self._control.recv(_READ)
        except OSError:
            content = b""
        self._is_pilot_gone = not content
        lines = (self._unread + content).split(b"\n")
        self._unread = lines.pop()
        return iter([json.loads(line.decode()) for line in lines])

    def _say(self, words: Dict[str, Any]) -> None:
        with suppress(OSError):
            self._control.sendall(json.dumps(words).encode() + b"\n")


def _become(order: Order, outputs: List[int], failure: int, guardian: int) -> NoReturn:
    """In the child: turn into the command, or write why not into `failure`."""
    is_ready = False
    try:
        _prepare(order, outputs, guardian)
        is_ready = True
        os.execvpe(order.command[0], list(order.command), order.environment)  # noqa: S606 - as the job has it
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number else str(error)
        os.write(failure, json.dumps({"errno": number, "reason": reason, "by_node": not is_ready}).encode())
    finally:
        os._exit(127)


def _prepare(order: Order, outputs: List[int], guardian: int) -> None:
    os.setsid()
    processes.die_with_parent()
    if os.getppid() != guardian:
        os._exit(127)  # the guardian died before the kernel was told
    signal.set_wakeup_fd(-1)
    for number in _RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.chdir(order.folder)
    for target, source in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(source, target)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    size = order.file_size if most == resource.RLIM_INFINITY else min(order.file_size, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as stream:
        stream.write(_OOM_SCORE)
    cgroups.join(order.group)
