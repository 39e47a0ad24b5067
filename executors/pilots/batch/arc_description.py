"""A pilot as ARC compute elements want it described: EMI-ES Activity Description Language, as A-REX reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from executors.pilots.batch.arc_options import ArcOptions
from schemas.sites import SiteQueueEntry

SCRIPT = "pilot.sh"
STDOUT = "stdout"
STDERR = "stderr"
_MIB = 1 << 20
_ADL = "http://www.eu-emi.eu/es/2010/12/adl"
_NORDUGRID = "http://www.nordugrid.org/es/2011/12/nordugrid-adl"


def job_name(tag: str) -> str:
    """The name that a pilot's job has at the element."""
    return f"penstock-{tag}"


def describe(tags: Iterable[str], entry: SiteQueueEntry, options: ArcOptions, delegation: str | None) -> bytes:
    """The description of pilots that are submitted together. `delegation`: the id of the proxy that they get."""
    root = ET.Element("ActivityDescriptions", {"xmlns": _ADL, "xmlns:nordugrid-adl": _NORDUGRID})
    for tag in tags:
        one = ET.SubElement(root, "ActivityDescription")
        _text(ET.SubElement(one, "ActivityIdentification"), "Name", job_name(tag))
        application = ET.SubElement(one, "Application")
        _text(ET.SubElement(application, "Executable"), "Path", SCRIPT)
        _text(application, "Output", STDOUT)
        _text(application, "Error", STDERR)
        _resources(ET.SubElement(one, "Resources"), entry, options)
        _staging(ET.SubElement(one, "DataStaging"), delegation)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _resources(element: ET.Element, entry: SiteQueueEntry, options: ArcOptions) -> None:
    """Memory is asked for per core: A-REX's backends multiply it by the slots."""
    for name in options.runtime_environments:
        _text(ET.SubElement(element, "RuntimeEnvironment"), "Name", name)
    slots = ET.SubElement(element, "SlotRequirement")
    _text(slots, "NumberOfSlots", str(entry.cores))
    _text(slots, "SlotsPerHost", str(entry.cores))
    _text(element, "IndividualPhysicalMemory", str(math.ceil(entry.memory / entry.cores) * _MIB))
    _text(element, "DiskSpaceRequirement", str(entry.disk * _MIB))
    _text(element, "WallTime", str(entry.wall_time))
    if options.queue is not None:
        _text(element, "QueueName", options.queue)


def _staging(element: ET.Element, delegation: str | None) -> None:
    if delegation is not None:
        _text(element, "nordugrid-adl:DelegationID", delegation)
    script = ET.SubElement(element, "InputFile")
    _text(script, "Name", SCRIPT)
    _text(script, "IsExecutable", "true")
    for stream in (STDOUT, STDERR):
        _text(ET.SubElement(element, "OutputFile"), "Name", stream)


def _text(parent: ET.Element, name: str, text: str) -> None:
    ET.SubElement(parent, name).text = text
