"""Published protocols as presets: what `protocol` sets in a specification where that says nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from recallfront.models.configs import Architecture
from recallfront.models.configs.named import NamedArchitecture
from recallfront.sweeps.space import Knobs

ProtocolName = Literal["zoology", "mad"]


@dataclass(frozen=True)
class Protocol:
    """Settings of models and of training; what an architecture lacks is left out for it."""

    model: Knobs
    training: Mapping[str, Any]
    architectures: Mapping[str, Knobs] = field(default_factory=dict)  # settings of one architecture
    # whether patterns are those of the mixers alone, without short convolutions before them
    bare: bool = False

    def settings(self, config: type[Architecture]) -> Knobs:
        """What the protocol sets in models of an architecture."""
        name = str(config.model_fields["architecture"].default)
        pattern: Knobs = {}
        if self.bare and issubclass(config, NamedArchitecture):
            pattern = {"pattern": config.composition.adopting}
        return self.model | pattern | self.architectures.get(name, {})


# Of github.com/HazyResearch/zoology: `model.py`, `train.py` and `experiments/models_repo.py`. Its block adds
# Identity(LayerNorm(x)) to the residual stream, and its initialisation scales what is called `out_proj` alone.
_ZOOLOGY: Final = Protocol(
    model={
        "mlp": "identity",
        "norm": "layer",
        "norm_eps": 1e-5,
        "init_std": 0.02,
        "init_depth_scaling": False,
        "embedding_dropout": 0.1,
    },
    architectures={
        "attention": {
            "positions": "none",
            "biases": True,
            "attention_dropout": 0.1,
            "init_depth_scaling": True,
        },
        "window": {"positions": "none", "biases": True, "init_depth_scaling": True},
        "based": {"pattern": "CL"},
    },
    training={
        "batch_size": 256,
        "evaluation_batch_size": 32,
        "learning_rate": 1e-3,
        "schedule": "cosine_by_epoch",
        "weight_decay": 0.1,
        "decayed": "all",
        "gradient_clipping": 0.0,
        "row_order": "given",
        "recall_over": "rows",
        "stop_at": {"recall": 0.99},
    },
)
# arXiv:2403.17844, and github.com/athms/mad-lab: mixer and SwiGLU twice, RMSNorm, RoPE in attention; the cosine that
# its code asks for never runs, so that its published figures are those of a constant rate.
_MAD: Final = Protocol(
    model={"width": 128, "num_layers": 2, "mlp": "swiglu", "mlp_expansion": 2.75, "tied_embeddings": False},
    architectures={
        "attention": {"positions": "rope"},
        "window": {"positions": "rope"},
        "griffin": {"pattern": "RW"},
        "based": {"pattern": "L"},
    },
    bare=True,
    training={
        "batch_size": 128,
        "evaluation_batch_size": 128,
        "schedule": "constant",
        "decayed": "all",
        "gradient_clipping": 0.0,
        "recall_over": "classes",
        "stop_at": {"recall": 0.999},
    },
)
PROTOCOLS: Final[Mapping[ProtocolName, Protocol]] = {"zoology": _ZOOLOGY, "mad": _MAD}
