"""A picked model as a model of MLflow (flavour `pyfunc`): what is written beside its weights, and what loads it.

MLflow imports this module by the name in the `MLmodel` file and calls `_load_pyfunc`. Nothing but the configuration and
the weights is read from the model's folder: no code and no pickle. The flavour `transformers` is not written: for an
architecture that is not transformers' own, its loader runs a module from that folder (trust_remote_code).

torch, numpy and MLflow are imported where they are first used, so that commands start fast.
"""

import logging
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from recallfront.models.language_model import LanguageModel

# What `predict` takes beside the prompts, with its defaults: the signature lists the same.
PARAMETERS: dict[str, int | float] = {
    "max_new_tokens": 16,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "stop_token": -1,
    "seed": 0,
}
_FILL = -1  # stands after the end of a row that is shorter than others
_EXAMPLE = [[0, 1, 1, 0]]  # any vocabulary has these


def write_mlflow_files(folder: Path, run_id: str, packages: Iterable[str] = ()) -> None:
    """Write `MLmodel`, signature, input example and requirements to a folder that is not there yet, no weights.

    `packages` are requirements beside recallfront and torch, such as `name==version` of a plug-in.
    """
    import numpy as np

    # MLflow warns of its own types as it is imported
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        from mlflow.pyfunc import save_model
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    tokens = Schema([TensorSpec(np.dtype(np.int64), (-1, -1))])
    kinds = {int: "long", float: "double"}
    parameters = ParamSchema([ParamSpec(name, kinds[type(x)], x) for name, x in PARAMETERS.items()])
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    save_model(
        str(folder),
        loader_module=__name__,
        mlflow_model=Model(artifact_path="model", run_id=run_id),
        signature=ModelSignature(inputs=tokens, outputs=tokens, params=parameters),
        input_example=(np.array(_EXAMPLE, dtype=np.int64), {"max_new_tokens": 4}),
        # a build's own suffix, as +cpu, is known to no index
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("recallfront", "torch")]
        + list(packages),
    )


class Generator:
    """Generates from prompts of token ids."""

    def __init__(self, model: "LanguageModel") -> None:
        self.model = model

    def predict(self, prompts: Any, params: dict[str, Any] | None = None) -> "np.ndarray[Any, Any]":
        """New tokens (B, at most max_new_tokens) for prompts (B, T), both int64; -1 fills up shorter rows at the end.

        params: max_new_tokens; temperature (0: the likeliest token); top_k (0: no limit); top_p; stop_token (a row ends
        with it; -1: none); seed. Raises ValueError if prompts are no such table, or a value makes no sense.
        """
        import numpy as np
        import torch

        from recallfront.models.decoding.generation import generate

        tokens = torch.from_numpy(np.array(prompts))
        lengths = self._lengths(tokens)
        device = self.model.embedding.weight.device
        asked = PARAMETERS | (params or {})
        new = generate(
            self.model,
            tokens.clamp(min=0).to(device),
            max_new_tokens=int(asked["max_new_tokens"]),
            lengths=None if int(lengths.min()) == tokens.shape[1] else lengths.to(device),
            stop_tokens=[int(asked["stop_token"])] if asked["stop_token"] >= 0 else [],
            temperature=float(asked["temperature"]),
            top_k=int(asked["top_k"]) or None,
            top_p=float(asked["top_p"]),
            seed=int(asked["seed"]),
        )
        longest = max(map(len, new))
        return np.array([row + [_FILL] * (longest - len(row)) for row in new], dtype=np.int64)

    def _lengths(self, tokens: "Tensor") -> "Tensor":
        """How many tokens each prompt has (B)."""
        import torch

        if tokens.ndim != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
            raise ValueError(
                f"prompts are {tokens.dtype} of shape {tuple(tokens.shape)}; they must be int64 token ids (batch, "
                "time), and not empty"
            )
        lowest, highest, vocabulary = int(tokens.min()), int(tokens.max()), self.model.config.vocab_size
        if lowest < _FILL or highest >= vocabulary:
            raise ValueError(
                f"prompts have token ids from {lowest} to {highest}; they must lie between 0 and {vocabulary - 1}, and "
                "-1 fills up shorter rows at the end"
            )
        given = tokens != _FILL
        lengths = given.sum(1)
        if not lengths.all() or not (given == (torch.arange(tokens.shape[1]) < lengths[:, None])).all():
            raise ValueError(
                "prompts have -1 before a token, or a row without one; -1 fills up rows at the end"
            )
        return lengths


def _load_pyfunc(path: str) -> Generator:
    """The model in the folder `path`, on the GPU if there is one."""
    import torch

    from recallfront.models.checkpoint import load
    from recallfront.platform import plugins

    plugins.load()
    try:
        model = load(path)
    except ValueError as error:
        error.add_note(
            "a mixer from a file has to be loaded before: recallfront.platform.plugins.load([FILE])"
        )
        raise
    return Generator(model.to("cuda") if torch.cuda.is_available() else model)
