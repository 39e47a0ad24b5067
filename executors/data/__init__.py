"""Data checks: outputs against their storages, steps against their jobs, files against their replicas.

`decide` holds the pure rules, one module per message type the thin shells, `port` what a storage must do
(entry points of `penstock.storages`). `consumers.data` calls `executors.data.shell.execute`.
"""
