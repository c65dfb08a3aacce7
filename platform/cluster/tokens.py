"""The token that a Ray cluster asks for (Ray >= 2.59)."""

import os
import secrets
from pathlib import Path

from recallfront.platform.errors import UsageError

_DEFAULT_FILE = Path("~/.ray/auth_token")
HOW_TO_GIVE_A_TOKEN = (
    f"set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it, or put it into {_DEFAULT_FILE} "
    "(on the head, `ray get-auth-token` shows it)"
)

_NO_HOME = (OSError, RuntimeError)  # RuntimeError: neither HOME nor the system names one


def find_token() -> tuple[str | None, str]:
    """The cluster's token and where it was found, in the order in which Ray looks; (None, "") where there is none.

    Raises:
        UsageError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(named) if named else _DEFAULT_FILE.expanduser()
        token = path.read_text().strip()
    except (*_NO_HOME, UnicodeDecodeError) as error:
        if named:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(f"RAY_AUTH_TOKEN_PATH={named}: cannot be read: {reason}") from None
        return None, ""
    return (token, str(path)) if token else (None, "")


def ensure_token() -> None:
    """Set RAY_AUTH_TOKEN for a Ray that this process starts if Ray cannot write a token into the home directory.

    Raises:
        UsageError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    is_asked_for = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if is_asked_for and find_token()[0] is None and not _can_be_kept():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _can_be_kept() -> bool:
    """Whether Ray can write a token of its own."""
    try:
        folder = _DEFAULT_FILE.parent.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except _NO_HOME:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
