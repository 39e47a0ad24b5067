"""How the driver's errors become ours: what was being done, where, why it failed, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorException,
    AMQPConnectorPhaseErrorBase,
    AMQPConnectorStackTimeout,
)
from pika.exceptions import AMQPError, ConnectionOpenAborted, ProbableAccessDeniedError, ProbableAuthenticationError

from pipeline.errors import BrokerUnavailable
from pipeline.transport.address import BrokerAddress


class NoAnswer(Exception):
    """The broker, or the network, says nothing any more."""


class NotTaken(Exception):
    """The broker refused messages that it could have taken, or lost their queue."""


class Unreachable(Exception):
    """None of several servers takes us."""


ERRORS = (AMQPError, AMQPConnectorException, NoAnswer, NotTaken, Unreachable, OSError)
"""What may be raised here or by the driver."""


@contextmanager
def broker_errors(address: BrokerAddress, doing: str) -> Iterator[None]:
    """Turn the driver's errors into BrokerUnavailable that says what was being done, and where."""
    try:
        yield
    except ERRORS as error:
        raise unavailable(address, doing, error) from error


def unavailable(address: BrokerAddress, doing: str, error: BaseException) -> BrokerUnavailable:
    """What to say about `error`."""
    return BrokerUnavailable(
        f"cannot {doing} at {address.shown}: {described(error)}; {_advice(address, _cause(error))}"
    )


def described(error: BaseException) -> str:
    """What went wrong, in a few words."""
    cause = _cause(error)
    if isinstance(cause, AMQPConnectorStackTimeout | ConnectionOpenAborted):
        return "no answer in AMQP while connecting"
    if isinstance(cause, ProbableAuthenticationError):
        return "the broker refused the user or the password"
    return str(cause) or type(cause).__name__


def _cause(error: BaseException) -> BaseException:
    """What the driver has wrapped: the last attempt's own error."""
    while True:
        inner: BaseException = error
        if isinstance(error, AMQPConnectionWorkflowFailed):
            inner = error.exceptions[-1]
        elif isinstance(error, AMQPConnectorPhaseErrorBase):
            inner = error.exception
        elif error.args and isinstance(error.args[0], BaseException):
            inner = error.args[0]
        if inner is error:
            return error
        error = inner


def _advice(address: BrokerAddress, error: BaseException) -> str:
    if isinstance(error, ProbableAuthenticationError):
        return f"check the password of user {address.user!r} in PENSTOCK_BROKER_URL"
    if isinstance(error, ProbableAccessDeniedError):
        return f"check that vhost {address.vhost!r} exists and that user {address.user!r} has permissions on it"
    code = getattr(error, "reply_code", None)
    if code == 403:
        return f"give user {address.user!r} the permission on vhost {address.vhost!r}"
    return "check that the broker runs and PENSTOCK_BROKER_URL is right"
