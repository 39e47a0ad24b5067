"""What a pilot finds out about its node, whatever the node's tools answer."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from pipeline.pilot import gpus, node, probe
from pipeline.pilot.gpus import Gpus
from schemas.nodes import node_kind
from schemas.pilots import Node

A100 = "40536, 8.0, 535.129.03"
V100 = "16160, 7.0, 535.129.03"
HANGS = "#!/bin/sh\nsleep 60\n"
PATIENCE = 10.0


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of fake tools before all others on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def printing(*lines: str, code: int = 0) -> str:
    return "#!/bin/sh\ncat <<'END'\n" + "".join(f"{line}\n" for line in lines) + f"END\nexit {code}\n"


def test_gpus_are_counted_and_described(tools: Path) -> None:
    tool(tools, "nvidia-smi", printing(A100, A100))
    found = gpus.find(PATIENCE)
    assert found == Gpus(("0", "1"), "nvidia", 40536, "8.0", "535.129.03")
    assert found.describe() == {
        "count": 2,
        "vendor": "nvidia",
        "memory": 40536,
        "compute_capability": "8.0",
        "driver": "535.129.03",
    }


def test_gpus_that_differ_are_as_good_as_the_least_of_them(tools: Path) -> None:
    tool(tools, "nvidia-smi", printing(A100, V100, "40536, 10.0, 535.129.03"))
    assert gpus.find(PATIENCE)[2:4] == (16160, "7.0")


def test_a_driver_that_knows_no_compute_capability_is_asked_for_the_rest(tools: Path) -> None:
    old = '#!/bin/sh\ncase "$1" in *compute_cap*) echo "not a valid field"; exit 2;; esac\necho "16160, 418.39"\n'
    tool(tools, "nvidia-smi", old)
    assert gpus.find(PATIENCE) == Gpus(("0",), "nvidia", 16160, "", "418.39")


def test_what_a_gpu_does_not_say_is_left_out(tools: Path) -> None:
    tool(tools, "nvidia-smi", printing("[N/A], 12.1, 580.65"))
    assert gpus.find(PATIENCE).describe() == {
        "count": 1,
        "vendor": "nvidia",
        "compute_capability": "12.1",
        "driver": "580.65",
    }


@pytest.mark.parametrize(
    "script",
    [
        printing("No devices were found", code=6),
        printing("NVIDIA-SMI has failed because it could not communicate with the driver"),
        printing(A100, code=15),
        printing(),
        "#!/bin/sh\nhead -c 4096 /dev/zero\n",
        "no program at all",
    ],
    ids=["none", "garbage", "failing", "silent", "zeros", "not-runnable"],
)
def test_a_tool_that_makes_no_sense_means_no_gpus(tools: Path, script: str) -> None:
    for name in ("nvidia-smi", "rocm-smi"):
        tool(tools, name, script)
    assert gpus.find(PATIENCE) == Gpus()


def test_a_tool_that_hangs_is_given_up_and_ended(tools: Path) -> None:
    tool(tools, "nvidia-smi", f"#!/bin/sh\necho $$ > {tools}/pid\nsleep 60 & wait\n")
    assert probe.ask("nvidia-smi", patience=0.5) is None
    assert not Path(f"/proc/{(tools / 'pid').read_text().strip()}").exists()


@pytest.mark.usefixtures("tools")
def test_nothing_is_asked_that_is_not_there() -> None:
    assert gpus.find(PATIENCE) == Gpus()
    assert gpus.find(PATIENCE).environment(()) == {}


def test_amd_gpus_are_found_and_those_of_the_processor_are_not(tools: Path) -> None:
    cards = '{"card0": {"VRAM Total Memory (B)": "17163091968"}, "card1": {"VRAM Total Memory (B)": "67108864"},'
    tool(tools, "rocm-smi", printing(f'{cards} "system": {{"Driver version": "6.3.6"}}}}'))
    found = gpus.find(PATIENCE)
    assert found == Gpus(("0",), "amd", 16368, "", "6.3.6")
    assert found.environment(["0"]) == {"ROCR_VISIBLE_DEVICES": "0"}


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ("1,3", ("1", "3")),
        ("GPU-5ebe9f43-ac33-420d, 2", ("GPU-5ebe9f43-ac33-420d", "2")),
        ("3,3,9", ("3",)),
        ("1,-1,2", ("1",)),
        ("", ()),
        ("NoDevFiles", ()),
    ],
)
def test_a_batch_system_may_leave_the_pilot_some_of_the_gpus(
    tools: Path, monkeypatch: pytest.MonkeyPatch, given: str, devices: tuple[str, ...]
) -> None:
    tool(tools, "nvidia-smi", printing(*[A100] * 4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.find(PATIENCE).devices == devices


@pytest.mark.parametrize(
    ("most", "clone", "tried", "usable"),
    [
        ("15000", None, 0, True),
        ("15000", "1", 0, True),
        ("0", "1", 0, False),
        ("15000", "0", 0, False),
        ("15000", None, 1, False),
        (None, None, 0, False),
    ],
    ids=["allowed", "allowed-twice", "none-allowed", "switched-off", "refused-when-tried", "unknown-kernel"],
)
def test_user_namespaces_are_there_when_they_work(
    tools: Path, most: str | None, clone: str | None, tried: int, usable: bool
) -> None:
    for name, value in (("user/max_user_namespaces", most), ("kernel/unprivileged_userns_clone", clone)):
        path = tools / "proc" / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is not None:
            path.write_text(f"{value}\n")
    tool(tools, "unshare", printing(code=tried).replace("cat", ": cat", 1))
    assert node.user_namespaces(str(tools / "proc"), PATIENCE) is usable


def test_a_node_describes_itself_in_words_that_the_api_takes(tools: Path) -> None:
    tool(tools, "nvidia-smi", printing(A100))
    found = gpus.find(PATIENCE)
    described = Node.model_validate(node.describe("node1", node.measure(str(tools), found), found))
    kind = node_kind(described)
    assert kind.system.name == platform.system().lower()
    assert kind.system.glibc == described.glibc
    assert kind.system.user_namespaces is node.user_namespaces()
    assert kind.architecture.name == platform.machine()
    assert (described.gpus, kind.gpu and kind.gpu.compute_capability) == (1, "8.0")
    if platform.machine() == "x86_64":
        assert described.microarchitecture == f"x86-64-v{kind.architecture.level}"
