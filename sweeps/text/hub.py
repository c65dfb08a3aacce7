"""Whether the Hugging Face hub can be reached, and its libraries without it.

`datasets` and huggingface_hub are imported where they are first used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recallfront.sweeps.base import SpecError


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


def check_revision(name: str, config: str | None, revision: str) -> None:
    """Raise SpecError unless what is kept of a data set is its `revision`; to be called within `kept_alone`.

    `datasets` reads the latest copy that it has, whatever revision it is asked for. The folder of a copy is named after
    its commit; that of a tag or branch is in the hub's cache, as this machine has seen it last.
    """
    from datasets import load_dataset_builder
    from huggingface_hub import constants

    seen = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / revision
    commit = seen.read_text(encoding="utf-8").strip() if seen.is_file() else revision
    kept = load_dataset_builder(name, config).hash
    if kept != commit:
        raise SpecError(
            f"the latest copy on this machine is of commit {kept}, and {constants.ENDPOINT} does not answer"
        )
