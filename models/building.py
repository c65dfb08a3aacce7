"""From a configuration to a model."""

from recallfront.models.configs import Architecture
from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.language_model import Embedding, LanguageModel
from recallfront.models.layer import Layer
from recallfront.models.parts.layers import MLP, LayerNorm, Linear, RMSNorm


def build(config: Architecture, seed: int = 0) -> LanguageModel:
    """The model of `config`, its parameters drawn as in its paper from a generator of their own.

    The same configuration and seed give the same parameters, whatever ran before.
    """
    model = assemble(config)
    model.initialise(seed)
    return model


def assemble(config: Architecture) -> LanguageModel:
    """The model of `config` with parameters that hold nothing yet."""
    mixers = {letter: config.mixer(letter) for letter in set(config.layers)}
    layers = [_layer(config, mixers[letter]) for letter in config.layers]
    std = config.width**-0.5
    rows = config.learned_positions
    model = LanguageModel(
        config,
        Embedding(config.vocab_size, config.width, std=std),
        layers,
        _norm(config),
        None if config.tied_embeddings else Linear(config.width, config.vocab_size, std=std),
        Embedding(rows, config.width, std=0.02) if rows else None,
    )
    if config.init_std is not None:
        _set_std(model, config.init_std)
    return model


def _set_std(model: LanguageModel, std: float) -> None:
    """One standard deviation for all matrices; those back to the residual stream over sqrt(2 layers), if asked."""
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Embedding)):
            # low-rank maps within a mixer have a `down` of their own
            back = name.endswith((".mixer.out", ".mlp.down"))
            scaled = back and model.config.init_depth_scaling
            module.std = std / (2 * model.config.num_layers) ** 0.5 if scaled else std


def _norm(config: Architecture) -> RMSNorm | LayerNorm:
    return (RMSNorm if config.norm == "rms" else LayerNorm)(config.width, config.norm_eps)


def _layer(config: Architecture, mixer: MixerConfig) -> Layer:
    mlp = None
    if config.mlp_width:
        mlp = MLP(
            config.width,
            config.mlp_width,
            config.mlp,
            bias=config.mlp_bias,
            std=None,
            out_scale=config.out_scale,
        )
    return Layer(mixer.build(), _norm(config), mlp, _norm(config) if config.has_mlp_norm else None)
