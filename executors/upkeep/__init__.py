"""Upkeep: what a tick asks for, one duty per trigger's name.

`duties` lists them, each in a module of its own; `consumers.upkeep` calls `executors.upkeep.shell.execute`.
"""
