"""The model a trial begins with: drawn from its seed, or another one's weights around the trial's mixers."""

import hashlib
from pathlib import Path

from recallfront.models import LanguageModel, build, load
from recallfront.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from recallfront.sweeps.start import StartConfig
from recallfront.sweeps.trial import TrialConfig


def starting_model(config: TrialConfig) -> LanguageModel:
    """The trial's model before its first step, adapters in place where it asks for them.

    Raises:
        ValueError: the start's folder holds no model, another one, or one that does not fit the trial's.
    """
    if config.start is None:
        return build(config.model, seed=config.seed)
    from recallfront.models.pretrained import linearize

    source = _source(config.start)
    knobs = config.model.model_dump(exclude={"architecture"})
    model = (
        source
        if source.config == config.model
        else linearize(source, config.model.architecture, seed=config.seed, **knobs)
    )
    if config.start.lora is not None:
        from recallfront.models.lora import add_lora

        kept = {name for name, _ in source.named_parameters()}
        new = [name for name, _ in model.named_parameters() if name not in kept]
        add_lora(model, **config.start.lora.model_dump(), train_whole=new)
    return model


def _source(start: StartConfig) -> LanguageModel:
    folder = Path(start.folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ValueError(f"start.folder={start.folder!r}: holds no {WEIGHTS_FILE}")
    if start.sha256 is not None:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if found != start.sha256:
            raise ValueError(f"start.sha256={start.sha256}: {WEIGHTS_FILE} has {found}")
    if (folder / CONFIG_FILE).is_file():
        return load(folder)
    from transformers import AutoModelForCausalLM

    from recallfront.models.pretrained import from_transformers

    return from_transformers(AutoModelForCausalLM.from_pretrained(folder, local_files_only=True))


def merge_adapters(model: LanguageModel, config: TrialConfig) -> None:
    """Make the trained model one without adapters, where it has any."""
    if config.start is not None and config.start.lora is not None:
        from recallfront.models.lora import merge_lora

        merge_lora(model)
