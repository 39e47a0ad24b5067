"""Which executor serves which queue, and with what limits: one short module per queue.

Imports `executors`, `pipeline` and `schemas`. `penstock consume` finds it by entry point.
"""
