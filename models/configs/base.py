"""What the configurations of all architectures have in common."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.frozen import added_field
from recallfront.models.configs.mixer import MOST_LAYERS, LayerSettings, MixerConfig


class Architecture(LayerSettings):
    """A language model: embedding, `num_layers` residual layers whose mixers `pattern` spells, norm, unembedding.

    Each letter of the pattern is a mixer, `mixer(letter)`. The pattern is repeated and cut to `num_layers`.
    """

    architecture: str
    vocab_size: int = Field(ge=2)
    pattern: str = Field(
        min_length=1,
        max_length=MOST_LAYERS,
        description="Mixers of the layers, one letter each; repeated and cut to `num_layers`.",
    )
    num_layers: int = Field(
        ge=1, le=MOST_LAYERS, description="Number of layers; by default the length of the pattern."
    )
    mlp_expansion: float = Field(
        default=0.0,
        ge=0,
        description="Hidden width of the channel mixer over the model's width; 0 leaves it out.",
    )
    mlp: Literal["geglu", "swiglu", "gelu", "identity"] = Field(
        default="geglu",
        description="Kind of the channel mixer; `identity` has no weights: a layer ends with x + norm(x), as in "
        "zoology's published models.",
    )
    norm: Literal["rms", "layer"] = Field(default="rms", description="RMSNorm or LayerNorm.")
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the variance in each norm.")
    learned_positions: int = Field(
        default=0,
        ge=0,
        description="Rows of a learned position table that is added to the embeddings; 0 means no table.",
    )
    tied_embeddings: bool = Field(
        default=True, description="Whether the unembedding is the embedding's matrix."
    )
    init_std: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of every initial matrix (Based: 0.02); null is by the number of its inputs.",
    )
    init_depth_scaling: bool = added_field(
        True,
        description="Whether `init_std` is divided by sqrt(2 layers) in projections back to the residual stream, as in "
        "GPT-2.",
    )
    embedding_dropout: float = added_field(
        0.0, ge=0, lt=1, description="Share of the embeddings' numbers that training sets to 0."
    )
    scale_embeddings: bool = Field(
        default=False, description="Whether embeddings are multiplied by sqrt(width), as in Gemma."
    )
    logits_soft_cap: float = Field(
        default=0.0, ge=0, description="Logits become cap * tanh(logits / cap); 0 means no cap."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_num_layers(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("num_layers") is None:
            pattern = values.get("pattern", cls.model_fields["pattern"].default)
            # of a pattern that is missing or empty, the pattern is what is wrong
            length = len(pattern) if isinstance(pattern, str) else 0
            return {**values, "num_layers": max(1, length)}
        return values

    @property
    @abstractmethod
    def letters(self) -> str:
        """What the pattern may contain."""

    @abstractmethod
    def mixer(self, letter: str) -> MixerConfig:
        """The mixer that a letter of the pattern stands for."""

    @property
    def layer_settings(self) -> dict[str, Any]:
        """What every mixer gets of the model."""
        return {name: getattr(self, name) for name in LayerSettings.model_fields}

    @property
    def layers(self) -> str:
        """One letter a layer: the pattern repeated and cut."""
        repeats = -(-self.num_layers // len(self.pattern))
        return (self.pattern * repeats)[: self.num_layers]

    @property
    def mixers_used(self) -> list[tuple[str, MixerConfig, int]]:
        """The letters of the layers in the order of `letters`, each with its mixer and its number of layers."""
        count = Counter(self.layers)
        return [(letter, self.mixer(letter), count[letter]) for letter in self.letters if count[letter]]

    @property
    def adds_sinusoids(self) -> bool:
        """Whether sinusoidal positions are added to the embeddings: if any of the mixers wants them."""
        return any(self.mixer(letter).adds_sinusoids for letter in self.letters)

    @model_validator(mode="after")
    def _check_identity(self) -> Self:
        if self.mlp == "identity" and self.mlp_expansion:
            raise ValueError(
                f"mlp_expansion is {self.mlp_expansion}; with mlp='identity', which has no weights, it must be 0"
            )
        return self

    @property
    def mlp_width(self) -> int:
        """Hidden width of the channel mixer; 0 if there is none."""
        return round(self.mlp_expansion * self.width)

    @property
    def has_mlp_norm(self) -> bool:
        """Whether each layer has a second norm: that of its channel mixer."""
        return self.mlp_width > 0 or self.mlp == "identity"

    @property
    def drops(self) -> bool:
        """Whether training draws what it drops."""
        return self.embedding_dropout > 0 or any(self.mixer(letter).drops for letter in self.letters)

    @property
    def mlp_bias(self) -> bool:
        """Whether the channel mixer has biases."""
        return self.biases

    def resized(
        self, *, width: int | None = None, num_layers: int | None = None, num_heads: int | None = None
    ) -> Self:
        """The same architecture and knobs at another size, its pattern repeated: a deployment shape.

        Raises pydantic.ValidationError if the new sizes do not fit the other fields.
        """
        sizes = {"width": width, "num_layers": num_layers, "num_heads": num_heads}
        changes = {name: size for name, size in sizes.items() if size is not None}
        values = self.model_dump() | changes
        for letter in self.letters:
            self._change(values, letter, self.mixer(letter).resized(values["width"], values["num_heads"]))
        return type(self).model_validate(values)

    @classmethod
    @abstractmethod
    def keeping(cls, attention: MixerConfig, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given pattern and knobs, and with them what keeps the most of the attention that the model takes over."""

    @abstractmethod
    def _change(self, values: dict[str, Any], letter: str, knobs: dict[str, Any]) -> None:
        """Put other knobs of a letter's mixer into the values of a configuration."""

    def parameter_count(self) -> int:
        """Numbers that are trained, by formula; a tied embedding counts once."""
        norm = self.width if self.norm == "rms" else 2 * self.width
        embeddings = self.learned_positions * self.width
        embeddings += (1 if self.tied_embeddings else 2) * self.vocab_size * self.width
        mixers = sum(count * mixer.parameters() for _, mixer, count in self.mixers_used)
        mlp = self._mlp_matrix() + (norm if self.has_mlp_norm else 0)
        if self.mlp_bias and self.mlp_width:
            mlp += self._mlp_branches * self.mlp_width + self.width
        return embeddings + norm + mixers + self.num_layers * (norm + mlp)

    def forward_flops(self, length: int) -> int:
        """Floating-point operations of one sequence forward, a multiply-add counted as two.

        Matrix products and the mixing of tokens, as the recurrent form does it if there is one; norms,
        nonlinearities and the embedding are left out. Training takes about three times as many.
        """
        layers = sum(
            count * (2 * length * (mixer.matrix_entries() + self._mlp_matrix()) + mixer.mixing_flops(length))
            for _, mixer, count in self.mixers_used
        )
        return layers + 2 * length * self.vocab_size * self.width

    @property
    def _mlp_branches(self) -> int:
        return 1 if self.mlp == "gelu" else 2

    def _mlp_matrix(self) -> int:
        return (self._mlp_branches + 1) * self.width * self.mlp_width

    def state_elements(self, context_length: int) -> int:
        """Numbers that one sequence carries from a decode step to the next after `context_length` tokens."""
        return sum(count * mixer.state_elements(context_length) for _, mixer, count in self.mixers_used)

    def materialised_state_elements(self, context_length: int) -> int:
        """`state_elements` as the authors' code holds it, which is more if that keeps numbers twice."""
        return sum(
            count * mixer.materialised_state_elements(context_length) for _, mixer, count in self.mixers_used
        )
