"""Pilots: planned from the demand, submitted to and followed on the sites' batch systems.

Imports `schemas` and `pipeline`; called by `consumers.pilots`. Batch systems are found by entry point.
"""
