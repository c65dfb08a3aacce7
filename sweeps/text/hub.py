"""Whether the Hugging Face hub can be reached, and its libraries without it.

`datasets` and huggingface_hub are imported where they are first used.
"""

from collections.abc import Iterator
from contextlib import contextmanager


def hub_away() -> str | None:
    """Why the hub cannot be reached; its own libraries ask for a minute, and tell of each time."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # of any of the libraries below
        return f"there is no such folder or kept copy, and {constants.ENDPOINT} does not answer: {error}"
    return None


@contextmanager
def kept_alone() -> Iterator[None]:
    """Meanwhile `datasets` reads what is kept on this machine, and asks nobody."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
