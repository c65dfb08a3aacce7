"""From a configuration to a model."""

from recallfront.models.configs import Architecture
from recallfront.models.configs.baselines import MatrixStateConfig
from recallfront.models.configs.linear import BasedConfig, FeatureKnobs, GroupedConfig
from recallfront.models.configs.recurrent import RecurrentKnobs
from recallfront.models.configs.softmax import AttentionKnobs
from recallfront.models.language_model import Embedding, LanguageModel, Layer
from recallfront.models.mixers.attention import Attention
from recallfront.models.mixers.base import Mixer
from recallfront.models.mixers.grouped import GroupedAttention
from recallfront.models.mixers.linear_attention import LinearAttention
from recallfront.models.mixers.matrix_state import MatrixState
from recallfront.models.mixers.recurrent import RecurrentBlock
from recallfront.models.mixers.short_convolution import BasedConvolution, GatedShortConvolution
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
    layers = [_layer(config, letter) for letter in config.layers]
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
    """One standard deviation for all matrices; those back to the residual stream over sqrt(2 layers), as in GPT-2."""
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Embedding)):
            back = name.endswith((".out", ".down"))
            module.std = std / (2 * model.config.num_layers) ** 0.5 if back else std


def _norm(config: Architecture) -> RMSNorm | LayerNorm:
    return (RMSNorm if config.norm == "rms" else LayerNorm)(config.width, config.norm_eps)


def _out_scale(config: Architecture) -> float:
    """Projections back to the residual stream start the smaller the more layers there are (Griffin's code)."""
    return float((2 / config.num_layers) ** 0.5)


def _layer(config: Architecture, letter: str) -> Layer:
    mlp = None
    if config.mlp_width:
        mlp = MLP(
            config.width,
            config.mlp_width,
            config.mlp,
            bias=config.mlp_bias,
            std=None,
            out_scale=_out_scale(config),
        )
    return Layer(_mixer(config, letter), _norm(config), mlp, _norm(config) if mlp else None)


def _mixer(config: Architecture, letter: str) -> Mixer:
    if letter == "C":
        return GatedShortConvolution(config.width, config.short_conv_size)
    if letter in "AW" and isinstance(config, AttentionKnobs):
        return Attention(
            config.width,
            config.num_heads,
            config.kv_heads,
            window_size=config.window_size if letter == "W" else None,  # type: ignore[attr-defined]
            rotary_dim=config.rotary_dim,
            positions=config.positions,
            rope_theta=config.rope_theta,
            bias=config.biases,
            out_bias=config.biases or isinstance(config, RecurrentKnobs),
            out_scale=_out_scale(config),
        )
    if letter == "R" and isinstance(config, RecurrentKnobs):
        return RecurrentBlock(
            config.width,
            config.recurrent_width,
            config.num_gate_blocks,
            config.conv_size,
            config.lambda_init,
            _out_scale(config),
        )
    if letter == "L" and isinstance(config, FeatureKnobs):
        return LinearAttention(config, std=config.width**-0.5, out_scale=_out_scale(config))
    if letter == "B" and isinstance(config, BasedConfig):
        return BasedConvolution(
            config.width, config.conv_expansion, config.short_conv_size, _out_scale(config)
        )
    if letter == "G" and isinstance(config, GroupedConfig):
        return GroupedAttention(
            config.width,
            config.num_heads,
            group_size=config.group_size,
            conv_size=config.conv_size,
            cross_scale_init=config.cross_scale_init,
            rotary_dim=config.rotary_dim,
            rope_theta=config.rope_theta,
            bias=config.biases,
            std=config.width**-0.5,
            out_scale=_out_scale(config),
        )
    if letter == "S" and isinstance(config, MatrixStateConfig):
        return MatrixState(config, _out_scale(config))
    raise ValueError(f"{config.architecture} has no layer {letter!r}; it has {', '.join(config.letters)}")
