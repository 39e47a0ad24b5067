"""The pilot: one file, the standard library alone, Python 3.6 or newer; it runs jobs on a worker node.

It speaks the protocol of `schemas/pilots.py` as plain JSON and imports nothing else of Penstock.
Only `penstock-pilot.pyz` (made by `pipeline/pilot_archive.py`) and its tests call it.
"""

PROTOCOL = 1
VERSION = "0.5.0"
