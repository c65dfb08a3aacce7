"""What the configurations of all architectures have in common."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.frozen import Frozen


class Architecture(Frozen):
    """A language model: embedding, `num_layers` residual layers whose mixers `pattern` spells, norm,
    unembedding.

    The letters of a pattern: C gated short convolution, A global softmax attention, W sliding-window
    attention, R recurrent block (RG-LRU), L linear (Taylor) attention, G grouped attention, S the matrix
    state of a baseline. Each architecture allows the letters that it has the knobs for. The pattern is
    repeated and cut to `num_layers`.
    """

    letters: ClassVar[str]  # what a pattern of this architecture may contain

    architecture: str
    vocab_size: int = Field(ge=2)
    width: int = Field(default=64, ge=1)
    num_heads: int = Field(default=1, ge=1)
    pattern: str = Field(min_length=1)
    num_layers: int = Field(ge=1)  # the pattern's length where none is given
    short_conv_size: int = Field(default=3, ge=1)  # taps of the gated short convolution (C)
    mlp_expansion: float = Field(default=0.0, ge=0)  # hidden over model width; 0: no channel mixer
    mlp: Literal["geglu", "swiglu", "gelu"] = "geglu"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = Field(default=1e-6, gt=0)
    biases: bool = False  # on attention's projections and the channel mixer, as GPT-2 has them
    learned_positions: int = Field(default=0, ge=0)  # rows of a table added to the embeddings; 0: none
    rope_theta: float = Field(default=10000.0, gt=0)  # base of the rotary frequencies, where there are any
    tied_embeddings: bool = True
    init_std: float | None = Field(default=None, gt=0)  # of every matrix (Based: 0.02); None: by its inputs
    scale_embeddings: bool = False  # by sqrt(width), as Gemma does
    logits_soft_cap: float = Field(default=0.0, ge=0)  # cap * tanh(logits / cap); 0: none

    @model_validator(mode="before")
    @classmethod
    def _fill_num_layers(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("num_layers") is None:
            pattern = values.get("pattern", cls.model_fields["pattern"].default)
            if isinstance(pattern, str) and pattern:
                return {**values, "num_layers": len(pattern)}
        return values

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        unknown = sorted(set(self.pattern) - set(self.letters))
        if unknown:
            raise ValueError(
                f"pattern is {self.pattern!r} and contains {', '.join(unknown)}; "
                f"{self.architecture} allows the letters {', '.join(self.letters)}"
            )
        self._check_divides("num_heads", self.num_heads, "width", self.width)
        return self

    @staticmethod
    def _check_divides(name: str, value: int, of_name: str, of_value: int) -> None:
        if of_value % value:
            raise ValueError(f"{name} is {value}, which does not divide {of_name}={of_value}; it must")

    def _check_turned(self, rotary_dim: int) -> None:
        """RoPE turns dimensions in pairs."""
        if rotary_dim % 2:
            raise ValueError(
                f"width / num_heads is {self.head_dim}, of which positions='rope' turns {rotary_dim}; that must be even"
            )

    @property
    def layers(self) -> str:
        """One letter a layer: the pattern repeated and cut."""
        return (self.pattern * self.num_layers)[: self.num_layers]

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the channel mixer; 0 where there is none."""
        return round(self.mlp_expansion * self.width)

    def resized(
        self, *, width: int | None = None, num_layers: int | None = None, num_heads: int | None = None
    ) -> Self:
        """The same architecture and knobs at another size, its pattern repeated: a deployment shape.

        Raises pydantic.ValidationError where the new sizes do not fit the other fields.
        """
        sizes = {"width": width, "num_layers": num_layers, "num_heads": num_heads}
        changes = {name: size for name, size in sizes.items() if size is not None}
        return type(self).model_validate({**self.model_dump(), **changes})

    @property
    def mlp_bias(self) -> bool:
        """Whether the channel mixer has biases: Griffin's always has."""
        return self.biases

    def parameter_count(self) -> int:
        """Numbers that are trained, by formula; a tied embedding counts once."""
        norm = self.width if self.norm == "rms" else 2 * self.width
        embeddings = self.learned_positions * self.width
        embeddings += (1 if self.tied_embeddings else 2) * self.vocab_size * self.width
        mixers = sum(self.layer_parameters(letter) for letter in self.layers)
        mlp = self._mlp_matrix() + (norm if self.mlp_width else 0)
        if self.mlp_bias and self.mlp_width:
            mlp += self._mlp_branches * self.mlp_width + self.width
        return embeddings + norm + mixers + self.num_layers * (norm + mlp)

    def forward_flops(self, length: int) -> int:
        """Floating-point operations of one sequence forward, a multiply-add counted as two.

        Matrix products and the mixing of tokens, as the recurrent form does it where there is one; norms,
        nonlinearities and the embedding are left out. Training takes about three times as many.
        """
        layers = sum(
            2 * length * (self.layer_matrix(letter) + self._mlp_matrix())
            + self.layer_mixing_flops(letter, length)
            for letter in self.layers
        )
        return layers + 2 * length * self.vocab_size * self.width

    @property
    def _mlp_branches(self) -> int:
        return 1 if self.mlp == "gelu" else 2

    def _mlp_matrix(self) -> int:
        return (self._mlp_branches + 1) * self.width * self.mlp_width

    def _unknown_layer(self, letter: str) -> ValueError:
        return ValueError(f"{self.architecture} has no layer {letter!r}; it has {', '.join(self.letters)}")

    def layer_matrix(self, letter: str) -> int:
        """Entries of the matrices that every token of one mixer is multiplied by."""
        if letter == "C":
            return self.width * self.width
        raise self._unknown_layer(letter)

    def layer_parameters(self, letter: str) -> int:
        """Parameters of one mixer."""
        if letter == "C":
            return self.layer_matrix(letter) + (self.short_conv_size + 2) * self.width
        raise self._unknown_layer(letter)

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        """Operations of one mixer beyond its matrices, over a sequence."""
        if letter == "C":
            return 2 * length * self.short_conv_size * self.width
        raise self._unknown_layer(letter)

    def state_elements(self, context_length: int) -> int:
        """Numbers that one sequence carries from a decode step to the next after `context_length` tokens.

        The most that any shorter context needs, so that a group that has just been emptied hides nothing.
        """
        return sum(self.layer_state_elements(letter, context_length) for letter in self.layers)

    def materialised_state_elements(self, context_length: int) -> int:
        """`state_elements` as the authors' code holds it, which is more where that keeps numbers twice."""
        return self.state_elements(context_length)

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        """State of one layer; each architecture adds the letters of its own."""
        if letter == "C":
            return (self.short_conv_size - 1) * self.width
        raise self._unknown_layer(letter)
