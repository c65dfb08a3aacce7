"""What a mixer says of itself: its knobs, what it costs, what it carries, what it keeps of a pretrained attention."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from recallfront.models.configs.frozen import Frozen

if TYPE_CHECKING:
    from recallfront.models.mixers.base import Mixer

MOST_LAYERS: Final = 10_000  # of a model: a specification lists the layers before anything is trained


class Rows(NamedTuple):
    """Rows of a projection: so many heads, and numbers a head."""

    heads: int
    dim: int


class Projection(NamedTuple):
    """A matrix that reads the residual stream: the name of its `Linear` in the module, and whose its rows are."""

    name: str
    rows: Mapping[str, Rows]  # role (q, k, v, or a word of the mixer's own) -> rows, in their order


class LayerSettings(Frozen):
    """What all layers of a model have in common."""

    width: int = Field(default=64, ge=1, description="Width of the residual stream.")
    num_heads: int = Field(default=1, ge=1, description="Heads of each mixer; must divide the width.")
    num_layers: int = Field(default=1, ge=1, le=MOST_LAYERS, description="Number of layers.")
    biases: bool = Field(
        default=False, description="Whether projections and the channel mixer have biases, as in GPT-2."
    )
    rope_theta: float = Field(
        default=10000.0, gt=0, description="Base of the frequencies of rotary positions."
    )

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        self._check_divides("num_heads", self.num_heads, "width", self.width)
        return self

    @staticmethod
    def _check_divides(name: str, value: int, of_name: str, of_value: int) -> None:
        if of_value % value:
            raise ValueError(f"{name} is {value}, which must divide {of_name}={of_value}")

    def _check_turned(self, rotary_dim: int) -> None:
        """RoPE turns dimensions in pairs."""
        if rotary_dim % 2:
            raise ValueError(
                f"width / num_heads is {self.head_dim}, of which positions='rope' turns {rotary_dim}; that must be even"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def out_scale(self) -> float:
        """Projections back to the residual stream start the smaller the more layers there are (Griffin's code)."""
        return float((2 / self.num_layers) ** 0.5)


class MixerConfig(LayerSettings):
    """A mixer: its knobs are its fields, its name is the default of `mixer`, and its methods describe it.

    A configuration also holds what the layers of the model have in common, so that the formulas can use it; that is
    not a knob, and a model gives it. See `recallfront.models.mixers.base` for how a mixer is added.
    """

    letter: ClassVar[str]  # of the mixer in a pattern, if nothing else is declared
    # whether `architecture: <name>` is a model of its own, the mixer after short convolutions
    is_architecture: ClassVar[bool] = True

    mixer: str

    @classmethod
    def name(cls) -> str:
        """What a configuration calls the mixer."""
        return str(cls.model_fields["mixer"].default)

    @classmethod
    def knobs(cls) -> dict[str, FieldInfo]:
        """The mixer's own settings."""
        shared = LayerSettings.model_fields.keys() | {"mixer"}
        return {name: field for name, field in cls.model_fields.items() if name not in shared}

    @property
    def own(self) -> dict[str, Any]:
        """The mixer's name and knobs, without what the layers have in common."""
        return self.model_dump(exclude=set(LayerSettings.model_fields))

    @abstractmethod
    def build(self) -> "Mixer":
        """The module, its parameters not drawn yet."""

    @abstractmethod
    def parameters(self) -> int:
        """Numbers that are trained."""

    @abstractmethod
    def matrix_entries(self) -> int:
        """Entries of the matrices that every token is multiplied by."""

    @abstractmethod
    def mixing_flops(self, length: int) -> int:
        """Operations beyond the matrices over a sequence, a multiply-add counted as two; the recurrent form's."""

    @abstractmethod
    def state_elements(self, context_length: int) -> int:
        """Numbers that one sequence carries to the next decode step after `context_length` tokens.

        The most that any shorter context needs, so that a group that has just been emptied hides nothing.
        """

    def materialised_state_elements(self, context_length: int) -> int:
        """`state_elements` as the authors' code holds it, which is more if that keeps numbers twice."""
        return self.state_elements(context_length)

    def product_flops(self, length: int) -> int:
        """Those of the mixing operations that are products of queries, keys and values."""
        return 0

    @property
    def drops(self) -> bool:
        """Whether training draws what the mixer drops."""
        return False

    @property
    def adds_sinusoids(self) -> bool:
        """Whether sinusoidal positions are added to the model's embeddings."""
        return False

    def check_longest(self, longest: int) -> None:
        """Raise ValueError if a knob makes no sense for texts of at most `longest` tokens."""
        return

    def resized(self, width: int, num_heads: int) -> dict[str, Any]:
        """Knobs that change if the model becomes `width` wide with `num_heads` heads; all others stay."""
        return {}

    @classmethod
    def keeping(cls, attention: "MixerConfig") -> dict[str, Any]:
        """Knobs with which the mixer keeps the most of a pretrained attention."""
        return {}

    def must_agree(self, attention: "MixerConfig") -> tuple[str, ...]:
        """What must be as in the attention whose place the mixer takes, by its name in both configurations."""
        return ()

    def projection(self) -> Projection | None:
        """The matrix that can take over an attention's queries, keys or values; None: the mixer has none.

        A mixer whose rows `v` fit takes over the way out (`out`) as well.
        """
        return None

    def hindrance(self) -> str:
        """Why nothing of an attention fits `projection`, and with which knobs it would."""
        return f"its projections are {self.projection()}"
