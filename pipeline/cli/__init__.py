"""The command line: `penstock`, one module per command or group of commands.

Users' commands go through the HTTP API (`remote.py`); operators' commands that must work while the API is
down go to the database and the broker (`direct.py`). Nothing else of Penstock imports this package.
"""
