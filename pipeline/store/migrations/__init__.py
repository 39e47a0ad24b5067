"""The schema's history, one file per step under `versions/`; expand first, contract a release later.

`python -m pipeline.store.migrations "why"` drafts the next step from what changed in `tables.py`.
"""
