"""Container runtimes: which of them work on this node, and a job's command inside an image, by each of them."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from pipeline.pilot import folders, mounts, probe, processes
from pipeline.pilot.errors import InfrastructureFailed, PayloadFailed

NAMES = ("apptainer", "singularity", "podman")
_PODMAN = "podman"
SHARED = ("/cvmfs",)
"""Folders that every container sees where the node has them."""
_SYSTEM = ("/bin", "/lib", "/lib64", "/usr")
_EMPTY = ("/dev", "/etc", "/proc", "/sys", "/tmp")  # noqa: S108 - places inside an image
_BRIEF = "/tmp"  # noqa: S108 - a folder of a name that nobody can guess is made there
_PATIENCE = 20.0
_PULL_EVERY = 0.1
_STDERR_TAIL = 4096
_OF_THE_CLIENT = re.compile(r"(LD_|XDG_|CONTAINER|PODMAN|DOCKER|STORAGE_|GO)\w*|PATH|HOME|TMPDIR")
"""Variables that podman itself would heed, so that it must not get them from a job through its environment."""
_CONFIG = """[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


class Runtime(NamedTuple):
    """One that works here. `client`: the program with its own options, `options`: those of each run.

    `folder` holds what it keeps, `brief` what it has while it runs, on a path that is short: podman takes none of more
    than 50 characters. `joins_group`: its containers stay in the control group that they are started in.
    """

    name: str
    client: Tuple[str, ...]
    options: Tuple[str, ...]
    folder: str
    brief: str
    joins_group: bool = True

    def environment(self) -> Dict[str, str]:
        """Of the client: the pilot's PATH, and places of its own; no user's configuration."""
        given = {"PATH": os.environ.get("PATH", os.defpath), "HOME": _home(self.folder)}
        if self.name != _PODMAN:
            prefix = self.name.upper()
            return {**given, prefix + "_CACHEDIR": self.folder, prefix + "_TMPDIR": self.folder}
        given["CONTAINERS_CONF"] = os.path.join(self.folder, "containers.conf")
        given["XDG_RUNTIME_DIR"] = self.brief
        given["TMPDIR"] = self.folder
        return given


class Inside(NamedTuple):
    """What is to be run inside of an image."""

    image: str
    command: Sequence[str]
    variables: Dict[str, str]
    folder: str
    binds: Sequence[str]
    """Folders that it sees as they are, `folder` among them."""
    scratch: str
    """In `folder`: what is /tmp inside."""
    name: str
    gpus: str = ""
    """The vendor of the GPUs that were granted; "" without any."""


class Run(NamedTuple):
    """A command that runs a container to its end, its environment, and what removes the container in any case."""

    command: Tuple[str, ...]
    environment: Dict[str, str]
    cleanup: Tuple[str, ...]


def find(folder: str, wanted: Sequence[str] = NAMES, patience: float = _PATIENCE) -> Tuple[Runtime, ...]:
    """Those of `wanted` that can run a container here: each is tried, for `patience` seconds. They keep their things
    below `folder`, in one of this process's own: podman's storage can't be moved to another `brief`.
    """
    present = [name for name in NAMES if name in wanted and shutil.which(name)]
    if not present:
        return ()
    brief = tempfile.mkdtemp(prefix="pst", dir=_BRIEF if os.access(_BRIEF, os.W_OK) else None)
    folder = os.path.join(folder, os.path.basename(brief))
    bare = os.path.join(folder, "bare")
    for name in ("home", *("bare" + path for path in (*_SYSTEM, *_EMPTY))):
        os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "containers.conf"), "w", encoding="ascii") as stream:
        stream.write(_CONFIG)
    found = [_first_that_works(_ways(name, folder, brief), bare, patience) for name in present]
    folders.remove(bare)
    if not any(found):
        _vacate(folder, brief)
    return tuple(runtime for runtime in found if runtime is not None)


def choose(runtimes: Sequence[Runtime], image: str) -> Runtime:
    """The first that can run such an image. Raises InfrastructureFailed."""
    for runtime in runtimes:
        if runtime.name != _PODMAN or not image.endswith(".sif"):
            return runtime
    raise InfrastructureFailed("no container runtime for the image {} works on this node".format(image), "no_container")


def fetch(runtime: Runtime, image: str, check: Callable[[], None]) -> str:
    """The image as `command` wants it, fetched if it is not on a file system. `check` may raise to give up.

    Raises InfrastructureFailed when it can't be had, PayloadFailed when it is none for that runtime.
    """
    if image.startswith("/"):
        if not os.path.exists(image):
            raise InfrastructureFailed("the image {} is not on this node".format(image), "image_missing")
        if runtime.name == _PODMAN and not os.path.isdir(image):
            raise PayloadFailed(
                "{} is no folder; say oci-archive:{} if it is one".format(image, image), "image_invalid"
            )
        return image
    if runtime.name != _PODMAN:
        return image  # fetched by the run itself
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        code = _pull((*runtime.client, "pull", "--quiet", image), runtime, output.fileno(), errors.fileno(), check)
        said = os.pread(output.fileno(), _STDERR_TAIL, 0).decode(errors="replace").split()
        if code == 0 and said:
            return said[-1]
        why = _last_line(os.pread(errors.fileno(), 1 << 20, 0)[-_STDERR_TAIL:])
    raise InfrastructureFailed("the image {} can't be fetched: {}".format(image, why), "image_missing")


def command(runtime: Runtime, inside: Inside) -> Run:
    """How to run it."""
    return _podman(runtime, inside) if runtime.name == _PODMAN else _apptainer(runtime, inside)


def failure(runtime: Runtime, exit_code: int, errors: bytes) -> Optional[Exception]:
    """What the runtime itself failed at, by its exit code and the end of the standard error; None when it did not."""
    line = _last_line(errors)
    if runtime.name == _PODMAN:
        if not line.startswith("Error:") or exit_code not in (125, 126, 127):
            return None
        if exit_code == 125:
            return InfrastructureFailed("podman: {}".format(line), "container_failed")
    elif exit_code != 255 or not line.startswith("FATAL:"):
        return None
    is_missing = exit_code == 127 or "no such file" in line or "not found" in line
    if runtime.name != _PODMAN and not is_missing:
        return InfrastructureFailed("{}: {}".format(runtime.name, line), "container_failed")
    return PayloadFailed(
        "{}: {}".format(runtime.name, line), "command_not_found" if is_missing else "command_not_runnable"
    )


def clear(runtimes: Sequence[Runtime]) -> None:
    """Remove all that they keep."""
    for runtime in runtimes:
        if runtime.name == _PODMAN:  # it may have files that only its own user namespace may remove
            probe.ask(*runtime.client, "rmi", "--all", "--force", environment=runtime.environment())
    sweep(runtimes)


def sweep(runtimes: Sequence[Runtime]) -> None:
    """The same without asking them: what has escaped `clear`, or lost the pilot that would have called it."""
    for folder, brief in {(runtime.folder, runtime.brief) for runtime in runtimes}:
        _vacate(folder, brief)


def _vacate(folder: str, brief: str) -> None:
    processes.end_at_home(_home(folder))
    for path in (folder, brief):
        mounts.detach_below(path)
        folders.remove(path)


def _home(folder: str) -> str:
    """Where the clients are at home. Podman without root leaves a process behind there, to keep a namespace."""
    return os.path.join(folder, "home")


def _ways(name: str, folder: str, brief: str) -> List[Runtime]:
    """In which ways a runtime may be made to work, the best first."""
    program = shutil.which(name) or name
    if name != _PODMAN:
        return [Runtime(name, (program, "--silent"), (), folder, brief)]
    users: List[Tuple[str, ...]] = [("--user", "0:0")]
    if os.geteuid() != 0:
        users.insert(0, ("--userns", "keep-id", "--user", "{}:{}".format(os.geteuid(), os.getegid())))
    ways = []
    # an old kernel knows no overlay for users, and where crun can't be there may be runc, which can't do without groups
    for user in users:
        for driver in ((), ("--storage-driver", "vfs")):
            root = os.path.join(folder, "storage" + "-".join(driver[1:]))
            client = (program, "--root", root, "--runroot", brief, "--tmpdir", os.path.join(brief, "libpod"), *driver)
            ways.append(Runtime(name, client, (*user, "--cgroups", "disabled"), folder, brief))
            ways.append(Runtime(name, (*client, "--runtime", "runc"), user, folder, brief, joins_group=False))
    return ways


def _first_that_works(ways: Sequence[Runtime], bare: str, patience: float) -> Optional[Runtime]:
    """Tried with an image that is empty but for what the node's own system has."""
    system = [path for path in _SYSTEM if os.path.isdir(path)]
    inside = Inside(bare, ("/bin/true",), {}, "/", system, bare, "penstock-probe-{}".format(os.getpid()))
    until = time.monotonic() + patience
    for runtime in ways:
        run = command(runtime, inside)
        left = max(until - time.monotonic(), 0.1)
        if probe.ask(*run.command, patience=left, environment=run.environment) is not None:
            return runtime
    return None


def _podman(runtime: Runtime, inside: Inside) -> Run:
    client = list(runtime.client)
    options = ["--rm", "--name", inside.name, "--workdir", inside.folder, "--network", "host", "--pid", "host"]
    # the payload's output goes through the guardian, which bounds it; podman's own log would not be bounded
    options += ["--log-driver", "none", "--ulimit", "host", "--http-proxy=false", "--security-opt", "label=disable"]
    options += ["--entrypoint", "", *runtime.options]
    for path in inside.binds:
        options += ["--volume", "{0}:{0}:rslave".format(path)]
    environment = runtime.environment()
    for name, value in sorted(inside.variables.items()):
        if _OF_THE_CLIENT.match(name):
            options += ["--env", "{}={}".format(name, value)]
        else:
            # by its name alone: values on a command line are for all to see
            options += ["--env", name]
            environment[name] = value
    if inside.gpus == "nvidia":
        options += ["--device", "nvidia.com/gpu=all"]  # which of them a job sees is said by its variables
    elif inside.gpus:
        options += ["--device", "/dev/kfd", "--device", "/dev/dri"]
    # a folder is left as it is: what is written goes into a layer above it
    image = ["--rootfs", inside.image + ":O"] if inside.image.startswith("/") else ["--pull", "never", inside.image]
    remove = (*client, "rm", "--force", "--ignore", "--time", "0", inside.name)
    return Run((*client, "run", *options, *image, *inside.command), environment, remove)


def _apptainer(runtime: Runtime, inside: Inside) -> Run:
    options = ["--contain", "--cleanenv", "--home", inside.folder, "--workdir", inside.scratch, "--pwd", inside.folder]
    for path in inside.binds:
        options += ["--bind", path]
    if inside.gpus:
        options.append("--nv" if inside.gpus == "nvidia" else "--rocm")
    environment = runtime.environment()
    for name, value in inside.variables.items():
        if name != "HOME":  # it may not be set so, and is the folder anyway
            environment["{}ENV_{}".format(runtime.name.upper(), name)] = value
    return Run((*runtime.client, "exec", *options, inside.image, *inside.command), environment, ())


def _pull(command: Sequence[str], runtime: Runtime, output: int, errors: int, check: Callable[[], None]) -> int:
    """With the pilot's own variables, so that a proxy is heeded: it runs nothing of a job's."""
    environment = {**os.environ, **runtime.environment()}
    process = subprocess.Popen(
        list(command), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
    )
    try:
        while process.poll() is None:
            check()
            time.sleep(_PULL_EVERY)
    finally:
        if process.returncode is None:
            probe.end(process)
    return process.returncode


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
