"""The model a trial begins with: drawn from its seed, or another one's weights around the trial's mixers.

transformers is imported where it is first used: most trials start from random weights.
"""

from pathlib import Path

from recallfront.models import LanguageModel, build, load
from recallfront.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from recallfront.models.pretrained.linearizing import Linearized, adopt
from recallfront.models.pretrained.lora import add_lora, merge_lora
from recallfront.models.pretrained.transformers_weights import from_transformers
from recallfront.platform.errors import UsageError
from recallfront.sweeps.base import file_digest
from recallfront.sweeps.start import StartConfig
from recallfront.sweeps.trial import TrialConfig

_TRANSFORMERS_FILE = "config.json"


def starting_model(config: TrialConfig) -> LanguageModel:
    """The trial's model before its first step, adapters in place where it asks for them.

    Raises:
        ValueError: the start's folder holds no model, another one, or one that does not fit the trial's.
    """
    if config.start is None:
        return build(config.model, seed=config.seed)
    source = _source(config.start)
    same = source.config == config.model
    model, new = Linearized(source, []) if same else adopt(source, config.model, config.seed)
    if config.start.lora is not None:
        add_lora(model, **config.start.lora.model_dump(), seed=config.seed, train_whole=new)
    return model


def check_start(start: StartConfig | None) -> None:
    """Refuse a sweep whose trials could not begin, before anything is computed.

    Raises:
        UsageError: the start's folder is missing or holds no model.
    """
    reason = None if start is None else _missing(start)
    if reason is not None:
        raise UsageError(reason)


def _missing(start: StartConfig) -> str | None:
    folder = Path(start.folder)
    if not folder.is_dir():
        return f"start.folder={start.folder!r}: is not a folder"
    if not (folder / WEIGHTS_FILE).is_file():
        return f"start.folder={start.folder!r}: holds no {WEIGHTS_FILE}"
    if not any((folder / name).is_file() for name in (CONFIG_FILE, _TRANSFORMERS_FILE)):
        return f"start.folder={start.folder!r}: holds neither {CONFIG_FILE} nor {_TRANSFORMERS_FILE}"
    return None


def _source(start: StartConfig) -> LanguageModel:
    folder, reason = Path(start.folder), _missing(start)
    if reason is not None:
        raise ValueError(reason)
    weights = folder / WEIGHTS_FILE
    if start.sha256 is not None:
        found = file_digest(weights)
        if found != start.sha256:
            raise ValueError(f"start.sha256={start.sha256}: {WEIGHTS_FILE} has {found}")
    if (folder / CONFIG_FILE).is_file():
        return load(folder)
    from transformers import AutoModelForCausalLM

    return from_transformers(AutoModelForCausalLM.from_pretrained(folder, local_files_only=True))


def merge_adapters(model: LanguageModel, config: TrialConfig) -> None:
    """Make the trained model one without adapters, where it has any."""
    if config.start is not None and config.start.lora is not None:
        merge_lora(model)
