"""What a failed call of MLflow means for the event that it was to send.

MLflow is imported where it is first used, so that the command starts fast.
"""

import errno
import sqlite3
from enum import Enum, auto


class Rejected(Exception):
    """MLflow, or the event itself, says that sending it again is useless."""


class NotYet(Exception):
    """The event has to wait for another one (a child run for its parent)."""


class Refusal(Enum):
    """What a failed call means for its event."""

    PERMANENT = auto()  # refused for what it says
    DOUBTFUL = auto()  # looks refused; a few more tries will tell
    TRANSIENT = auto()  # the server or the network: as long as it takes


_PERMANENT_CODES = (
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
)


def refusal_of(error: Exception) -> Refusal:
    """Whether to send the event again after `error`."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, Rejected):
        return Refusal.PERMANENT
    if isinstance(error, (NotYet, sqlite3.Error)):  # the latter: our own spool, on a full disk say
        return Refusal.TRANSIENT
    if isinstance(error, MlflowException):
        # "API request to ...": a status without MLflow's own error body, as from a proxy in front of it.
        if str(error).startswith("API request to"):
            return Refusal.TRANSIENT
        if error.error_code in _PERMANENT_CODES:
            return Refusal.PERMANENT
        # The SQL store answers a full connection pool with BAD_REQUEST.
        refused = error.error_code in ("BAD_REQUEST", "MALFORMED_REQUEST") and "QueuePool" not in str(error)
        return Refusal.DOUBTFUL if refused else Refusal.TRANSIENT
    if isinstance(error, OSError):
        return _refusal_of_os_error(error)
    return Refusal.DOUBTFUL


def _refusal_of_os_error(error: OSError) -> Refusal:
    """The network's errors (those of `requests` are OSErrors too) pass; those of a path mostly do not.

    The latter come from a server that names a folder of its own machine as the place of artifacts.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = status is not None and 400 <= status < 500 and status not in (401, 403, 408, 429)
    misplaced = error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EROFS,
    )
    return Refusal.DOUBTFUL if refused or misplaced else Refusal.TRANSIENT
