"""The store: MySQL/MariaDB or SQLite as the only place where state lives.

Imports `schemas` and SQLAlchemy, which nobody else imports; speaks the domain (submit, lock, apply, pop),
never SQL, to its callers: the API, the runtime, executors and triggers.
"""
