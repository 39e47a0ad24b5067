"""`penstock up`: everything on one machine, started, watched, and ended together.

Imports the settings, the store and the private Redis; runs the other processes as `penstock` commands.
"""
