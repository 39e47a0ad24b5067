"""Batch systems behind one port: local processes, Slurm (also by SSH), ARC and HTCondor, and the credentials they need.

Imports `executors.pilots.port` and `program`; called through the entry points `penstock.batch_systems`.
"""
