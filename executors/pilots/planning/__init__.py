"""How many pilots, and where: pure rules over what one cycle's queries found.

Imports `schemas` and rows of `pipeline.store`; called by the shell of `executors.pilots` and by the preview.
"""
