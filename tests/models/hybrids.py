"""Random hybrids: any mixers beside each other, each with knobs drawn from what its fields allow."""

from typing import Any, Literal, get_args, get_origin

import annotated_types
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from recallfront.models import parse_config
from recallfront.models.mixers import registry

_HELD = {"horizon": 512}  # cosformer's weights turn negative in texts that are longer


def drawn_hybrids(count: int) -> list[dict[str, Any]]:
    """The same configurations each time, each of other mixers, for width 16 and a vocabulary of 17.

    The first `count` that are drawn, and of those after them the ones with a mixer that is in none before.
    """
    found: dict[frozenset[str], dict[str, Any]] = {}

    @settings(
        derandomize=True,
        max_examples=8 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_hybrids())
    def collect(values: dict[str, Any]) -> None:
        found.setdefault(frozenset(mixer["mixer"] for mixer in values["mixers"].values()), values)

    collect()
    assert len(found) >= count
    chosen: list[dict[str, Any]] = []
    mixers: set[str] = set()
    for names, values in found.items():
        if len(chosen) < count or names - mixers:
            chosen.append(values)
            mixers |= names
    return chosen


@st.composite
def _hybrids(draw: st.DrawFn) -> dict[str, Any]:
    """Two or three mixers, two to four layers."""
    names = draw(st.lists(st.sampled_from(registry.names()), min_size=2, max_size=3, unique=True))
    mixers = {letter: draw(_mixer(name)) for letter, name in zip("XYZ", names, strict=False)}
    repeated = draw(st.sampled_from(["", *mixers]))
    values: dict[str, Any] = {
        "architecture": "hybrid",
        "mixers": mixers,
        "pattern": "".join(draw(st.permutations([*mixers, *repeated]))),
        "num_heads": draw(st.sampled_from([1, 2, 4])),
        "biases": draw(st.booleans()),
        "mlp_expansion": draw(st.sampled_from([0, 1])),
        "norm": draw(st.sampled_from(["rms", "layer"])),
    }
    try:
        parse_config({"vocab_size": 17, "width": 16} | values)
    except ValueError:
        assume(False)
    return values


@st.composite
def _mixer(draw: st.DrawFn, name: str) -> dict[str, Any]:
    knobs = {knob: draw(_value(knob, field)) for knob, field in registry.get(name).knobs().items()}
    return {"mixer": name, **knobs}


def _value(knob: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Small values that the field takes, its default among them if it is small."""
    if knob in _HELD:
        return st.just(_HELD[knob])
    kinds = get_args(field.annotation) or (field.annotation,)
    if get_origin(field.annotation) is Literal:
        return st.sampled_from(kinds)
    if bool in kinds:
        return st.booleans()
    if float in kinds:
        return st.just(field.default)
    low = next((limit.ge for limit in field.metadata if isinstance(limit, annotated_types.Ge)), 0)
    numbers = st.integers(int(str(low)), int(str(low)) + 5)
    return st.none() | numbers if type(None) in kinds else numbers
