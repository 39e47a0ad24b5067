"""The clock: a declared schedule, and the loop that publishes its ticks.

Imports `schemas` and `pipeline`. `penstock triggers` finds it by entry point.
"""
