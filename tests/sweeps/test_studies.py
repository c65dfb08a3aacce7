"""The studies that come with the package: each loads, has the trials that are told here, and can test its claims."""

import math
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.platform.front.claims import ClaimVerdict, Judgement
from recallfront.platform.front.pictures.note import plain
from recallfront.platform.front.pictures.report_parts import settings
from recallfront.platform.metrics import named_in_condition
from recallfront.sweeps.claims import Claim, Threshold
from recallfront.sweeps.load import load_study, studies
from recallfront.sweeps.objectives import split_context
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.suite import Suite
from recallfront.sweeps.tasks.forgetting_mqar import ForgettingMQAR

# MAD's grid: a task's baseline, and what is changed one at a time
MAD: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "in_context_recall": (
        {"vocab_size": 16, "length": 128},
        {"vocab_size": [32, 64, 128], "length": [256, 512, 1024], "examples": [6400, 3200, 1600, 800]},
    ),
    "noisy_in_context_recall": (
        {"vocab_size": 32, "length": 128, "noise_vocab_size": 16, "frac_noise": 0.2},
        {
            "vocab_size": [48, 80, 144],
            "length": [256, 512, 1024],
            "examples": [6400, 3200, 1600, 800],
            "frac_noise": [0.4, 0.6, 0.8],
        },
    ),
    "fuzzy_in_context_recall": (
        {"vocab_size": 16, "length": 128, "k_motif_size": 3, "v_motif_size": 3},
        {"vocab_size": [32, 64, 128], "length": [256, 512, 1024], "examples": [6400, 3200, 1600, 800]},
    ),
    "selective_copying": (
        {"vocab_size": 16, "length": 256, "num_tokens_to_copy": 16},
        {
            "vocab_size": [32, 64, 128],
            "length": [512, 1024],
            "examples": [6400, 3200, 1600, 800],
            "num_tokens_to_copy": [32, 64, 96],
        },
    ),
    "compression": (
        {"vocab_size": 16, "length": 32},
        {"vocab_size": [32, 64, 128], "length": [64, 128, 256], "examples": [6400, 3200, 1600, 800]},
    ),
    "memorization": (
        {"vocab_size": 256, "length": 32, "examples": 256},
        {"vocab_size": [512, 1024, 2048, 4096, 8192]},
    ),
}
# both scales of each: on two cores, and on a GPU
TRIALS = {
    "alibi-extrapolation": (21, 21),
    "augmented-linear": (39, 39),
    "extraction": (14, 14),
    "forgetting": (42, 63),
    "griffin-extrapolation": (18, 72),
    "hybrid-ratio": (48, 252),
    "linearize": (21, 21),
    "mad-suite": (210, 210),
    "mqar-board": (153, 468),
    "recall-predicts-text": (60, 90),
    "throughput": (17, 17),
}
# on two cores alone: on a GPU it is a part of griffin-extrapolation-gpu
COPYING = "griffin-copying"
SCALES = [COPYING, *(name + scale for name in TRIALS for scale in ("", "-gpu"))]
ON_TWO_CORES_MINUTES = 45
LONGER = {
    "mad-suite": "ten architectures with three seeds on each of seven tasks",
    "mqar-board": "51 configurations with three seeds: with fewer there is no board",
}
STARVED = {  # as docs/studies/README.md says
    COPYING: "it ran at the lowest priority beside other work",
    "forgetting": "it ran beside other work",
    "augmented-linear": "its run was interrupted, and resumed two hours later",
}
# reports of a study as it was, with what has changed since: each is to be written anew
STALE = {
    "mqar-board": "it has HGRN2, KDA and RWKV-7, and a claim no longer compares the delta rule with attention",
    "throughput": "it has five more architectures and a context of 16,384 tokens",
}
REPORTS = sorted((Path(__file__).parents[2] / "docs" / "studies").glob("*/report.md"))


def sweeps_of(study: SweepSpec | Suite) -> dict[str, SweepSpec]:
    """What the metrics of a study's claims begin with -> the sweep that they are of; a suite's tasks have one each."""
    if isinstance(study, SweepSpec):
        return {"": study}
    return {f"{part.task}.": part.spec for part in study.parts}


def claims_of(study: SweepSpec | Suite) -> Iterator[tuple[Claim, dict[str, SweepSpec]]]:
    """Each claim with the sweeps that it is about: those of a study, and those of a suite's sweeps alone."""
    for claim in study.claims:
        yield claim, sweeps_of(study)
    for part in study.parts if isinstance(study, Suite) else ():
        for claim in part.spec.claims:
            yield claim, sweeps_of(part.spec)


def figures_of(study: SweepSpec | Suite) -> Iterator[tuple[str, str, SweepSpec]]:
    """Each figure that a claim names: the claim, the metric, and a sweep that has to have it."""
    for claim, own in claims_of(study):
        for measure in claim.parsed.values():
            for metric in filter(None, (measure.metric, measure.over)):
                tasks, dot, name = metric.rpartition(".")
                for task in tasks.split("+"):
                    yield claim.id, named_in_condition(name), own[f"{task}{dot}"]


def specification_of(report: Path) -> Path:
    """The specification that a report was written of."""
    return report.with_name("specification.yaml")


def is_stale(report: Path) -> bool:
    """Whether settings or claims of the study are others than those that the report was written of."""
    was, now = load_study(str(specification_of(report))), load_study(report.parent.name)

    def asked(study: SweepSpec | Suite) -> dict[str, tuple[dict[str, str], Threshold]]:
        return {claim.id: (claim.measures, claim.comparison) for claim, _ in claims_of(study)}

    return was.key != now.key or asked(was) != asked(now)


def minutes_of(report: str) -> float:
    """How long the sweeps of a report took, as it says."""
    units = {"h": 60.0, "min": 1.0, "s": 1 / 60}
    told = re.findall(r"^\| time from first to last trial \| (.+?) \|$", report, flags=re.MULTILINE)
    assert told
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", " ".join(told)))


@pytest.mark.parametrize("name", TRIALS)
def test_a_study_has_two_scales(name: str) -> None:
    cpu, gpu = load_study(name), load_study(f"{name}-gpu")
    assert (cpu.number_of_trials, gpu.number_of_trials) == TRIALS[name]
    assert not any(spec.resources.gpus for spec in sweeps_of(cpu).values())
    assert all(spec.resources.gpus for spec in sweeps_of(gpu).values())
    asked, on_a_gpu = ([claim.id for claim, _ in claims_of(study)] for study in (cpu, gpu))
    assert set(asked) & set(on_a_gpu), "the scales share claims"
    if isinstance(cpu, Suite):
        assert asked == on_a_gpu


def test_copying_is_one_half_of_what_the_gpu_is_asked() -> None:
    copying, both = load_study(COPYING), load_study("griffin-extrapolation-gpu")
    assert isinstance(copying, SweepSpec) and isinstance(both, Suite)
    assert copying.number_of_trials == 9 and not copying.resources.gpus
    tasks = {part.spec.task.name for part in both.parts}
    assert tasks == {copying.task.name, sweeps_of(load_study("griffin-extrapolation"))[""].task.name}


def test_mad_asks_the_66_settings_of_its_grid() -> None:
    study = load_study("mad-gpu")
    assert isinstance(study, Suite) and len(study.parts) == 66
    asked: dict[str, list[dict[str, Any]]] = {task: [] for task in MAD}
    for part in study.parts:
        spec, settings = part.spec, part.spec.task.model_dump()
        (train,) = settings["train"]
        (validation,), (test,) = settings["validation"], settings["test"]
        assert spec.protocol == "mad" and validation == test == train | {"examples": 1280}
        assert spec.training.steps == 200 * math.ceil(train["examples"] / 128), "200 epochs"
        rates = {(k["training.learning_rate"], k["training.weight_decay"]) for _, k in spec.grid()}
        assert rates == set(product((1e-4, 5e-4, 1e-3), (0.0, 0.1)))
        assert spec.number_of_trials == len(rates) * len(spec.blocks)
        task = spec.task.name.removeprefix("mad_")
        keys = ("examples", *MAD[task][0])
        asked[task].append({key: (settings | train)[key] for key in keys})
    for task, (baseline, changes) in MAD.items():
        whole = {"examples": 12800} | baseline
        others = [whole | {key: value} for key, values in changes.items() for value in values]
        assert sorted(asked[task], key=str) == sorted([whole, *others], key=str), task


def test_the_time_of_mad_follows_from_its_steps() -> None:
    study = load_study("mad-gpu")
    assert isinstance(study, Suite) and study.expected_minutes is not None
    steps = sum(part.spec.training.steps * part.spec.number_of_trials for part in study.parts)
    shares = {part.spec.resources.gpus for part in study.parts}
    assert study.number_of_trials == 3960 and steps == 53_844_000 and shares == {1 / 8}
    assert 1 < study.expected_minutes / (steps * 0.006 / 8 / 60) < 1.25


@pytest.mark.parametrize("name", SCALES)
def test_a_study_asks_what_it_can_decide(name: str) -> None:
    study = load_study(name)
    assert study.name == name and study.question.endswith("?") and study.claims
    for claim, own in claims_of(study):
        assert claim.source, claim.id
        for spec in own.values():
            assert claim.seeds <= len(spec.seeds), (claim.id, "would be undecided for ever")


@pytest.mark.parametrize("scale", ["", "-gpu"])
def test_alibi_trained_short_is_asked_beside_sinusoids_trained_long(scale: str) -> None:
    study = load_study(f"alibi-extrapolation{scale}")
    assert isinstance(study, Suite)
    own = sweeps_of(study)
    short, long = own["short."], own["long."]
    (length,), (twice,) = short.task.lengths("validation"), long.task.lengths("validation")
    assert twice == 2 * length and twice in short.task.lengths("test")
    assert short.training.batch_size * length == long.training.batch_size * twice
    (claim,) = study.claims
    asked = {measure.metric: measure.selection for measure in claim.parsed.values()}
    assert asked == {
        f"short.perplexity_at_{twice}": "positions == alibi",
        f"long.perplexity_at_{twice}": "positions == sinusoidal",
    }


@pytest.mark.parametrize("scale", ["", "-gpu"])
def test_forgetting_is_asked_at_equal_state(scale: str) -> None:
    spec = load_study(f"forgetting{scale}")
    assert isinstance(spec, SweepSpec)
    models = [spec.trial(block, knobs, spec.seeds[0]).model for block, knobs in spec.grid()]
    states = {one.architecture: one.state_elements(spec.measurement.context_length) for one in models}
    delta = states["deltanet"]
    assert delta == states["gated_deltanet"] == states["gla"] == states["mamba2"]
    assert delta < states["based"] < 1.1 * delta and delta < states["attention"]


def test_every_study_is_told_here() -> None:
    without_claims = {name for name in studies() if not load_study(name).claims}
    assert set(studies()) - without_claims == set(SCALES)


@pytest.mark.parametrize("name", studies())
def test_a_study_tells_how_long_it_takes(name: str) -> None:
    assert load_study(name).expected_minutes is not None


@pytest.mark.parametrize("name", [name for name in studies() if not name.endswith("-gpu")])
def test_a_study_on_two_cores_takes_as_long_as_most_may(name: str) -> None:
    minutes = load_study(name).expected_minutes
    assert minutes is not None
    assert (minutes > ON_TWO_CORES_MINUTES) == (name in LONGER)


@pytest.mark.parametrize(
    "report",
    [report for report in REPORTS if report.parent.name not in STARVED],
    ids=lambda report: report.parent.name,
)
def test_a_study_took_no_longer_than_it_says(report: Path) -> None:
    declared = load_study(report.parent.name).expected_minutes
    assert declared is not None
    assert minutes_of(report.read_text()) <= 1.1 * declared  # a machine is not as fast every day


@pytest.mark.parametrize("name", SCALES)
def test_a_claim_about_rows_names_rows_that_the_study_tests(name: str) -> None:
    for claim, metric, spec in figures_of(load_study(name)):
        context = split_context(metric)[1]
        at = metric.rpartition("_at_")[2] if "_at_" in metric and context is None else None
        assert at is None or at in set(map(str, spec.task.lengths("test"))), (claim, metric)
        assert context is None or context in spec.measurement.contexts, (claim, metric)
        if "_updates_" in metric:
            assert isinstance(spec.task, ForgettingMQAR)
            segments = {rows.segment for rows in spec.task.rows_of("test")}
            assert metric.removeprefix("recall_") in segments, (claim, metric)


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_a_report_tells_what_its_specification_asks(report: Path) -> None:
    lines = report.read_text().splitlines()
    for claim, _ in claims_of(load_study(str(specification_of(report)))):
        (told,) = (line for line in lines if line.startswith(f"| {claim.id}: "))
        asked = f"{claim.comparison.formula} {Judgement(claim, ClaimVerdict.NOT_TESTED).asked}"
        assert told.endswith(f"| {plain(asked)} |")
        measures = {f"| {claim.id} | {name} | {plain(text)} |" for name, text in claim.measures.items()}
        assert measures <= set(lines)
    written = yaml.safe_load(specification_of(report).read_text())
    if "task" in written:  # a suite's report spells out what its file leaves out
        rows = {"task": written["task"], "models": written["model"]}
        rows |= {name: written[name] for name in ("training", "measurement", "search")}
        settings_told = [*rows.items(), *(("", block) for block in written["space"])]
        assert {f"| {name} | {plain(settings(value))} |" for name, value in settings_told} <= set(lines)


def test_reports_are_of_the_studies_of_today_but_for_those_that_are_listed() -> None:
    assert {report.parent.name for report in REPORTS if is_stale(report)} == STALE.keys()
    readme = (REPORTS[0].parents[1] / "README.md").read_text()
    told = re.search(r"have changed since their reports were written: ([^.]+)\.", readme)
    assert set(re.findall("`(.+?)`", told[1]) if told else []) == STALE.keys()


def test_what_is_told_beside_zoologys_board_is_in_the_report() -> None:
    folder = REPORTS[0].parents[1]
    rows = (folder / "mqar-board" / "report.md").read_text().splitlines()
    told = re.findall(r"([\d.]+) KiB ([\d.]+)", (folder / "README.md").read_text())
    assert len(told) >= 12
    for state, recall in told:
        assert any(f"| {recall} ±" in row and f"| {state} KiB |" in row for row in rows), (state, recall)
