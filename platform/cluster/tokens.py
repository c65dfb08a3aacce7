"""The token that a Ray cluster asks for (Ray >= 2.59)."""

import os
from pathlib import Path

from recallfront.platform.errors import UsageError

_DEFAULT_FILE = Path("~/.ray/auth_token")
HOW_TO_GIVE_A_TOKEN = (
    f"set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it, or put it into {_DEFAULT_FILE} "
    "(on the head, `ray get-auth-token` shows it)"
)


def find_token() -> tuple[str | None, str]:
    """The cluster's token and where it was found, in the order in which Ray looks; (None, "") where there is none.

    Raises:
        UsageError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else _DEFAULT_FILE.expanduser()
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(f"RAY_AUTH_TOKEN_PATH={named}: cannot be read: {reason}") from None
        return None, ""
    return (token, str(path)) if token else (None, "")
