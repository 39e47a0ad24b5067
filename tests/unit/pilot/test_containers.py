"""Command lines of container runtimes, and what is made of how they end.

Podman runs for real in tests/integration/pilot/test_containers.py. Apptainer is in no archive that this machine can
install from: its command line is seen here alone, and has not run.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.pilot import containers
from pipeline.pilot.containers import Inside, Runtime
from pipeline.pilot.errors import InfrastructureFailed, PayloadFailed

PODMAN = Runtime("podman", ("/usr/bin/podman", "--root", "/w/c/storage"), ("--user", "0:0"), "/w/c", "/tmp/b")
APPTAINER = Runtime("apptainer", ("/usr/bin/apptainer", "--silent"), (), "/w/c", "/tmp/b")
VARIABLES = {"HOME": "/w/jobs/5-1", "SEED": "1", "LD_PRELOAD": "/cvmfs/x.so", "PENSTOCK_JOB_ID": "5"}
FOLDER = "/w/jobs/5-1"


def inside(image: str, gpus: str = "") -> Inside:
    return Inside(
        image, ("run.sh", "-x"), VARIABLES, FOLDER, (FOLDER, "/cvmfs"), FOLDER + "/.tmp", "penstock-1-5-1", gpus
    )


def pairs(command: tuple[str, ...], option: str) -> list[str]:
    """What follows each `option`."""
    return [after for word, after in pairwise(command) if word == option]


def test_podman_runs_a_folder_and_leaves_it_as_it_is() -> None:
    run = containers.command(PODMAN, inside("/cvmfs/unpacked/el9"))
    assert run.command[:4] == ("/usr/bin/podman", "--root", "/w/c/storage", "run")
    assert run.command[-4:] == ("--rootfs", "/cvmfs/unpacked/el9:O", "run.sh", "-x")
    assert pairs(run.command, "--volume") == [f"{FOLDER}:{FOLDER}:rslave", "/cvmfs:/cvmfs:rslave"]
    assert pairs(run.command, "--workdir") == [FOLDER]
    assert pairs(run.command, "--entrypoint") == [""]
    assert "--device" not in run.command
    assert run.cleanup[:3] == PODMAN.client
    assert run.cleanup[3:] == ("rm", "--force", "--ignore", "--time", "0", "penstock-1-5-1")


def test_podman_is_not_led_astray_by_a_jobs_variables() -> None:
    run = containers.command(PODMAN, inside("0123abcd"))
    assert run.command[-5:] == ("--pull", "never", "0123abcd", "run.sh", "-x")
    assert pairs(run.command, "--env") == [f"HOME={FOLDER}", "LD_PRELOAD=/cvmfs/x.so", "PENSTOCK_JOB_ID", "SEED"]
    assert (run.environment["HOME"], run.environment["SEED"]) == ("/w/c/home", "1")
    assert "LD_PRELOAD" not in run.environment


def test_apptainer_runs_clean_with_the_jobs_folder_and_variables() -> None:
    run = containers.command(APPTAINER, inside("docker://almalinux:9"))
    assert run.command == (
        *("/usr/bin/apptainer", "--silent", "exec", "--contain", "--cleanenv"),
        *("--home", FOLDER, "--workdir", f"{FOLDER}/.tmp", "--pwd", FOLDER),
        *("--bind", FOLDER, "--bind", "/cvmfs", "docker://almalinux:9", "run.sh", "-x"),
    )
    given = {name: value for name, value in run.environment.items() if name.startswith("APPTAINERENV_")}
    assert given == {f"APPTAINERENV_{name}": value for name, value in VARIABLES.items() if name != "HOME"}
    assert "SEED" not in run.environment
    assert run.cleanup == ()
    older = containers.command(APPTAINER._replace(name="singularity"), inside("/i.sif"))
    assert older.environment["SINGULARITYENV_SEED"] == "1"


@pytest.mark.parametrize(
    ("vendor", "apptainer", "podman"),
    [("nvidia", "--nv", ["nvidia.com/gpu=all"]), ("amd", "--rocm", ["/dev/kfd", "/dev/dri"])],
)
def test_granted_gpus_are_passed_on(vendor: str, apptainer: str, podman: list[str]) -> None:
    assert apptainer in containers.command(APPTAINER, inside("/image", vendor)).command
    assert pairs(containers.command(PODMAN, inside("/image", vendor)).command, "--device") == podman


def test_an_image_file_of_apptainers_is_for_apptainer() -> None:
    assert containers.choose((PODMAN, APPTAINER), "/i.sif") is APPTAINER
    assert containers.choose((PODMAN, APPTAINER), "/i") is PODMAN
    for runtimes, image in (((PODMAN,), "/i.sif"), ((), "docker://x")):
        with pytest.raises(InfrastructureFailed, match="no container runtime for the image"):
            containers.choose(runtimes, image)


@pytest.mark.parametrize(
    ("runtime", "code", "errors", "kind", "minor"),
    [
        (PODMAN, 125, "Error: crun: bad\n", InfrastructureFailed, "container_failed"),
        (PODMAN, 127, "Error: crun: executable file `x` not found in $PATH\n", PayloadFailed, "command_not_found"),
        (PODMAN, 126, "Error: runc: exec: permission denied: OCI\n", PayloadFailed, "command_not_runnable"),
        (APPTAINER, 255, "FATAL:   could not open image /x: no space\n", InfrastructureFailed, "container_failed"),
        (APPTAINER, 255, 'FATAL:   "x": executable file not found in $PATH\n', PayloadFailed, "command_not_found"),
    ],
)
def test_what_the_runtime_could_not_do_is_not_taken_for_the_payloads_end(
    runtime: Runtime, code: int, errors: str, kind: type[Exception], minor: str
) -> None:
    error = containers.failure(runtime, code, b"earlier\n" + errors.encode())
    assert type(error) is kind
    assert isinstance(error, InfrastructureFailed | PayloadFailed)
    assert error.minor == minor


@pytest.mark.parametrize(("code", "errors"), [(125, "bisect\n"), (1, "Error: mine\n"), (127, "sh: x: not found\n")])
def test_codes_of_the_payload_are_its_own(code: int, errors: str) -> None:
    assert containers.failure(PODMAN, code, errors.encode()) is None
    assert containers.failure(APPTAINER, code, errors.encode()) is None
