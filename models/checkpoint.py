"""Models on disk: weights as safetensors, the configuration as JSON beside them."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from recallfront.models.building import build
from recallfront.models.configs import parse_config
from recallfront.models.language_model import LanguageModel

CONFIG_FILE = "recallfront.json"
WEIGHTS_FILE = "model.safetensors"


def save(model: LanguageModel, folder: str | Path) -> Path:
    """Write the model to `folder` (made if it is missing); returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps: its own names would not load
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(model.config.model_dump(), indent=2) + "\n")
    return folder


def load(folder: str | Path) -> LanguageModel:
    """The model that `save` wrote to `folder`, on the CPU, in the type it was saved in.

    Raises FileNotFoundError if a file is missing and ValueError if weights and configuration do not
    fit.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no model: {name} is missing")
    model = build(parse_config(json.loads((folder / CONFIG_FILE).read_text())))
    weights = load_file(folder / WEIGHTS_FILE)
    check_parameters({name: tensor.shape for name, tensor in model.state_dict().items()}, weights)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
    return model


def check_parameters(expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]) -> None:
    """Raise one ValueError that names every parameter that is missing, left over or of the wrong shape."""
    missing = sorted(expected.keys() - found.keys())
    left_over = sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} has shape {tuple(found[name].shape)} and needs {tuple(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(found[name].shape) != tuple(expected[name])
    ]
    parts = []
    if missing:
        parts.append(f"missing: {', '.join(missing)}")
    if left_over:
        parts.append(f"left over: {', '.join(left_over)}")
    if wrong:
        parts.append(f"wrong shape: {', '.join(wrong)}")
    if parts:
        raise ValueError(f"the parameters do not fit the model; {'; '.join(parts)}")
