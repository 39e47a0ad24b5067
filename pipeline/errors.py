"""Every error that Penstock raises on purpose. Messages say what is wrong, with which input, and what to do.

PenstockError
├── BadInput                 the caller's fault: exit code 2, HTTP 4xx
│   ├── BadSettings          a setting is missing or wrong
│   ├── NotFound             nothing of that name or id is visible to the caller
│   ├── Forbidden            the token's role or VO does not allow it
│   ├── Unauthorized         no valid token
│   └── Conflict             the state does not allow it
├── SchemaMismatch           the database's schema is not the one of this release: exit code 2
├── BrokerUnavailable        the broker can't be reached, or refused: exit code 1
├── DatabaseUnavailable      the database can't be reached, or went on refusing: exit code 1
├── ApiUnavailable           the API can't be reached, or failed: exit code 1
├── StorageUnavailable       a storage can't be reached now
├── BatchSystemUnavailable   a batch system can't be reached now
├── TracesUnavailable        what traces are sent to did not take them
└── DemandUnknown            a demand source failed: no pilots are planned
"""

from __future__ import annotations


class PenstockError(Exception):
    """The root; the CLI prints it as one line and exits with 1."""

    exit_code = 1


class BadInput(PenstockError):
    """What the caller gave is wrong; nothing was stored. `field` says where, if it is known."""

    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class BadSettings(BadInput):
    """A setting is missing or wrong."""


class NotFound(BadInput):
    """Nothing of that name or id is visible to the caller."""


class Forbidden(BadInput):
    """The token's role or VO does not allow it."""


class Unauthorized(BadInput):
    """No valid token was given."""


class Conflict(BadInput):
    """The present state does not allow it."""


class SchemaMismatch(PenstockError):
    """The database's schema is not the one that this release works on."""

    exit_code = 2


class BrokerUnavailable(PenstockError):
    """The broker can't be reached, or refused."""


class DatabaseUnavailable(PenstockError):
    """The database can't be reached, or went on refusing after every retry."""


class ApiUnavailable(PenstockError):
    """The API can't be reached, or failed."""


class StorageUnavailable(PenstockError):
    """A storage can't be reached now; other storages are not affected."""


class BatchSystemUnavailable(PenstockError):
    """A batch system can't be reached now; other site queues are not affected."""


class TracesUnavailable(PenstockError):
    """What traces are sent to can't be reached, or did not take them."""


class DemandUnknown(PenstockError):
    """A demand source failed: what it wants is not known, and nothing is planned from the rest."""
