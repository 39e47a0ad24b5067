"""The node's GPUs: which there are, what they are like, and which of them an attempt may see."""

import json
import os
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from pipeline.pilot import probe

MIB = 1 << 20
_NVIDIA, _AMD = "nvidia", "amd"
_VISIBLE = {_NVIDIA: "CUDA_VISIBLE_DEVICES", _AMD: "ROCR_VISIBLE_DEVICES"}
_DEVICE = re.compile(r"\d{1,4}|(GPU|MIG)-[\w./-]+")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*")
_INTEGRATED = 1024
"""MiB below which an AMD device is part of the processor and no use to jobs."""


class Gpus(NamedTuple):
    """Memory is MiB of each. Where GPUs differ it is the least of them, so that any may be given. Empty: unknown."""

    devices: Tuple[str, ...] = ()
    vendor: str = ""
    memory: int = 0
    compute_capability: str = ""
    driver: str = ""

    def describe(self) -> Dict[str, Any]:
        """As the enrolment states them: what is unknown is left out."""
        known = {name: value for name, value in self._asdict().items() if value and name != "devices"}
        return {"count": len(self.devices), **known}

    def environment(self, devices: Sequence[str]) -> Dict[str, str]:
        """What shows an attempt these devices and no others; nothing on a node without GPUs.

        For AMD it is one variable: HIP would apply a second one to what the first has left.
        """
        return {_VISIBLE[self.vendor]: ",".join(devices)} if self.devices else {}


class _Card(NamedTuple):
    """One device as its vendor's tool lists it."""

    number: int
    memory: int
    compute_capability: str
    driver: str


def find(patience: float = probe.PATIENCE) -> Gpus:
    """The GPUs that this process may use, of the first vendor that has any; `patience` seconds for each tool."""
    for vendor, cards in ((_NVIDIA, _nvidia), (_AMD, _amd)):
        found = cards(patience)
        devices = _visible(_VISIBLE[vendor], [card.number for card in found])
        if devices:
            return Gpus(
                devices,
                vendor,
                min(card.memory for card in found),
                _least(card.compute_capability for card in found),
                _least(card.driver for card in found),
            )
    return Gpus()


def _nvidia(patience: float) -> List[_Card]:
    # older drivers refuse to be asked for the compute capability
    for fields in ("memory.total,compute_cap,driver_version", "memory.total,driver_version"):
        answer = probe.ask("nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits", patience=patience)
        rows = [[part.strip() for part in line.split(",")] for line in (answer or "").splitlines() if line.strip()]
        if rows and all(len(row) == fields.count(",") + 1 and _version(row[-1]) for row in rows):
            return [
                _Card(number, _number(row[0]), _version(row[1]) if len(row) > 2 else "", _version(row[-1]))
                for number, row in enumerate(rows)
            ]
    return []


def _amd(patience: float) -> List[_Card]:
    answer = probe.ask("rocm-smi", "--showmeminfo", "vram", "--showdriverversion", "--json", patience=patience)
    try:
        listed = json.loads(answer or "{}")
    except ValueError:
        return []
    if not isinstance(listed, dict):
        return []
    system = listed.get("system")
    driver = _version(str(system.get("Driver version", ""))) if isinstance(system, dict) else ""
    cards = []
    for name, words in listed.items():
        number = re.match(r"card(\d{1,4})$", name)
        if number and isinstance(words, dict):
            memory = _number(str(words.get("VRAM Total Memory (B)", ""))) // MIB
            cards.append(_Card(int(number.group(1)), memory, "", driver))
    return [card for card in cards if not 0 < card.memory < _INTEGRATED]


def _visible(variable: str, numbers: Sequence[int]) -> Tuple[str, ...]:
    """The devices that the batch system has left us, in its own words; all where it says nothing."""
    given = os.environ.get(variable)
    if given is None:
        return tuple(str(number) for number in sorted(numbers))
    devices = []
    for word in (part.strip() for part in given.split(",")):
        if not _DEVICE.fullmatch(word):
            break  # as CUDA reads it
        if numbers and (not word.isdigit() or int(word) in numbers) and word not in devices:
            devices.append(word)
    return tuple(devices)


def _number(text: str) -> int:
    return int(text) if re.match(r"\d{1,15}$", text) else 0


def _version(text: str) -> str:
    found = _VERSION.match(text)
    return found.group(0) if found else ""


def _least(versions: Iterable[str]) -> str:
    """The oldest; unknown where one is."""
    least: Optional[str] = None
    for version in versions:
        if least is None or _parts(version) < _parts(least):
            least = version
    return least or ""


def _parts(version: str) -> List[int]:
    return [int(part) for part in version.split(".") if part]
