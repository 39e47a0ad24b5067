"""Pilots: planned from the demand, submitted to and followed on the sites' batch systems.

Imports `schemas` and `pipeline`; called by `consumers.pilots`. How many pilots go where is in `planning`; what each
batch system is told is in `batch`: those are found by entry point and know no more of us than `port` and `program`.
"""
