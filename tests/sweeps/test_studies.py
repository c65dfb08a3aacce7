"""The studies that come with the package: each loads, has the trials that are told here, and can test its claims."""

import pytest

from recallfront.platform.metrics import named_in_condition
from recallfront.sweeps.load import load_spec, load_study, studies
from recallfront.sweeps.objectives import split_context
from recallfront.sweeps.suite import Suite
from recallfront.sweeps.tasks.forgetting_mqar import ForgettingMQAR

# both scales of each: on two cores, and on a GPU
TRIALS = {
    "alibi-extrapolation": (15, 15),
    "augmented-linear": (39, 39),
    "forgetting": (42, 63),
    "griffin-extrapolation": (18, 36),
    "hybrid-ratio": (48, 120),
    "linearize": (21, 21),
    "mqar-board": (162, 336),
    "throughput": (12, 13),
}
SUITES = {"extraction": (12, 14), "mad-suite": (210, 210)}
ON_TWO_CORES_MINUTES = 45


@pytest.mark.parametrize("name", TRIALS)
def test_a_study_has_two_scales(name: str) -> None:
    assert {name, f"{name}-gpu"} <= studies().keys()
    cpu, gpu = load_spec(name), load_spec(f"{name}-gpu")
    assert (cpu.number_of_trials, gpu.number_of_trials) == TRIALS[name]
    assert not cpu.resources.gpus and gpu.resources.gpus
    assert cpu.expected_minutes is not None and cpu.expected_minutes <= ON_TWO_CORES_MINUTES
    for spec in (cpu, gpu):
        assert spec.question.endswith("?") and spec.claims and spec.name in (name, f"{name}-gpu")
        for claim in spec.claims:
            assert claim.source, claim.id
            assert claim.seeds <= len(spec.seeds), (claim.id, "would be undecided for ever")
    assert [c.id for c in gpu.claims if c.id in {own.id for own in cpu.claims}], "the scales share claims"


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_two_scales(name: str) -> None:
    cpu, gpu = load_study(name), load_study(f"{name}-gpu")
    assert isinstance(cpu, Suite) and isinstance(gpu, Suite)
    assert (cpu.number_of_trials, gpu.number_of_trials) == SUITES[name]
    assert cpu.expected_minutes is not None and cpu.expected_minutes <= ON_TWO_CORES_MINUTES
    assert cpu.question.endswith("?") and [claim.id for claim in cpu.claims] == [c.id for c in gpu.claims]


@pytest.mark.parametrize("name", [name + scale for name in TRIALS for scale in ("", "-gpu")])
def test_a_claim_about_rows_names_rows_that_the_study_tests(name: str) -> None:
    spec = load_spec(name)
    lengths = set(map(str, spec.task.lengths("test")))
    for claim in spec.claims:
        for measure in claim.parsed.values():
            metric = named_in_condition(measure.metric)
            context = split_context(metric)[1]
            at = metric.rpartition("_at_")[2] if "_at_" in metric and context is None else None
            assert at is None or at in lengths, (claim.id, metric)
            assert context is None or context in spec.measurement.contexts, (claim.id, metric)
            if "_updates_" in metric:
                assert isinstance(spec.task, ForgettingMQAR)
                segments = {rows.segment for rows in spec.task.rows_of("test")}
                assert metric.removeprefix("recall_") in segments, (claim.id, metric)
