"""What can go wrong on a worker node.

PilotError
├── BadOptions               an option is missing or wrong: exit code 2
├── ApiError
│   ├── Unreachable          network or server trouble: try again later
│   ├── Refused              the API understood and said no (4xx): the same again will not help
│   └── Fenced               the API does not know this pilot (any more): it must end
└── AttemptError             ends one attempt, with this reason in its report
    ├── PayloadFailed        the job's own fault
    ├── InfrastructureFailed the node's, the storage's or the network's fault
    └── Stopped              somebody asked for it; the job knows who
"""

from typing import Optional

_UNKNOWN_FIELD = 422


class PilotError(Exception):
    """The root."""


class BadOptions(PilotError):
    """An option is missing or wrong."""


class ApiError(PilotError):
    """A call to the API did not succeed."""


class Unreachable(ApiError):
    """The API can't be reached or failed; `after` is the wait in seconds that it asked for, if it did."""

    def __init__(self, message: str, after: Optional[float] = None) -> None:
        super().__init__(message)
        self.after = after


class Refused(ApiError):
    """The API refused the request with `status`. `is_about_words`: one of an earlier release may not know them all."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.is_about_words = status == _UNKNOWN_FIELD


class Fenced(ApiError):
    """The token, the secret or the protocol is not accepted."""


class AttemptError(PilotError):
    """Ends one attempt; the message becomes the report's reason, `minor` is the same in one word for machines."""

    def __init__(self, message: str, minor: str) -> None:
        super().__init__(message)
        self.minor = minor


class PayloadFailed(AttemptError):
    """The job's own fault."""


class InfrastructureFailed(AttemptError):
    """Not the job's fault: it may be tried elsewhere."""


class Stopped(AttemptError):
    """The attempt was told to stop."""
