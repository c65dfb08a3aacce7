"""Protocols set what a specification does not, for every architecture that can be built."""

from typing import Any

import pytest

from recallfront.models.configs import architectures
from recallfront.sweeps import SweepSpec, TrialConfig
from recallfront.sweeps.protocols import PROTOCOLS
from tests.platform.specs import TINY, tiny


def first_trial(**changes: Any) -> TrialConfig:
    spec = SweepSpec.model_validate(
        {key: value for key, value in tiny(**changes).items() if value is not None}
    )
    block, knobs = next(spec.grid())
    return spec.trial(block, knobs, 0)


def test_zoologys_protocol_is_the_published_one() -> None:
    trial = first_trial(protocol="zoology", training=None, space=[{"architecture": "attention"}])
    model, training = trial.model.model_dump(), trial.training
    assert (model["mlp"], model["norm"], model["positions"], model["biases"]) == (
        "identity",
        "layer",
        "none",
        True,
    )
    assert (model["embedding_dropout"], model["attention_dropout"], model["init_std"]) == (0.1, 0.1, 0.02)
    assert (training.schedule, training.row_order, training.recall_over) == (
        "cosine_by_epoch",
        "given",
        "rows",
    )
    assert (training.decayed, training.gradient_clipping, training.batch_size) == ("all", 0.0, 256)
    assert training.stop_at is not None and training.stop_at.recall == 0.99


def test_mads_protocol_is_the_published_one() -> None:
    trial = first_trial(protocol="mad", model=None, training=None, space=[{"architecture": "attention"}])
    model, training = trial.model.model_dump(), trial.training
    assert trial.model.layers == "AA" and (model["width"], model["mlp"]) == (128, "swiglu")
    assert model["mlp_expansion"] * model["width"] == 352, "8/3 of the width, up to a multiple of 16"
    assert (model["norm"], model["positions"], model["tied_embeddings"]) == ("rms", "rope", False)
    # the cosine that MAD's code asks for never runs
    assert (training.schedule, training.warmup_steps, training.row_order) == ("constant", 0, "shuffled")
    assert (training.decayed, training.gradient_clipping, training.batch_size) == ("all", 0.0, 128)
    assert (training.recall_over, training.evaluation_batch_size) == ("classes", 128)
    assert training.stop_at is not None and training.stop_at.recall == 0.999


def test_what_a_specification_says_comes_first() -> None:
    space = [{"architecture": "attention", "attention_dropout": 0.2}]
    trial = first_trial(
        protocol="zoology", model={"norm": "rms"}, training={"gradient_clipping": 1.0}, space=space
    )
    model = trial.model.model_dump()
    assert (model["norm"], model["attention_dropout"], model["mlp"]) == ("rms", 0.2, "identity")
    assert (
        trial.training.gradient_clipping == 1.0
        and trial.training.batch_size == TINY["training"]["batch_size"]
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", sorted(architectures().keys() - {"hybrid"}))
def test_every_architecture_has_every_protocol(name: str, protocol: str) -> None:
    trial = first_trial(protocol=protocol, space=[{"architecture": name}])
    layers = trial.model.layers
    assert ("C" in layers) == (protocol == "zoology")
    assert len(layers) == 2 or (name, protocol) == ("griffin", "zoology"), "of which zoology has no model"


def test_a_window_that_no_layer_has_needs_no_row_of_its_length() -> None:
    rows = [{"length": 8, "examples": 32}]
    task = {"name": "cumulative_parity", "train": rows, "validation": rows, "test": rows}
    block = {"architecture": "based"}
    trial = first_trial(protocol="zoology", task=task, training={"batch_size": 32}, space=[block])
    assert trial.model.layers == "CL" and trial.model.model_dump()["window_size"] > 8
    with pytest.raises(ValueError, match="window_size=16: longer than the task's longest row of 8"):
        first_trial(task=task, space=[block | {"pattern": "CW"}])


def test_a_protocol_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="protocol"):
        first_trial(protocol="zoologie")
