"""The consumer runtime: receive a batch, execute it in a process pool, commit outcomes, publish, acknowledge.

Imports `schemas`, the transport port and the store. `penstock consume` calls it; what it runs is
a `ConsumerSpec`, found by entry point.
"""
