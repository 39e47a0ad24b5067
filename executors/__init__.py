"""The work: one package per message type's queue, each a pure `decide` inside a thin shell.

Imports `schemas` and `pipeline`. Consumers call it, in the processes of their pools.
"""
