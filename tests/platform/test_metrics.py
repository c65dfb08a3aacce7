"""Figures by their names: titles, families, and how seeds are joined."""

from typing import get_args

import pytest

from recallfront.platform.metrics import (
    METRICS,
    columns_of,
    compared,
    duration,
    energies_of,
    metric,
    name_for_condition,
    named_in_condition,
    rates_of,
    show,
    title_of,
    without_repeats,
)
from recallfront.sweeps.objectives import Objective, ObjectiveMetric


def test_every_objective_has_a_line_and_a_title() -> None:
    names = [known.name for known in METRICS]
    assert len(set(names)) == len(names)
    assert set(get_args(ObjectiveMetric)) == {known.name for known in METRICS if known.may_be_objective}
    assert all(title_of(name) for name in names)


def test_members_of_a_family_are_told_by_their_part_of_the_name() -> None:
    assert title_of("recall_at_2048") == "recall on test at 2048"
    assert title_of("validation_recall_at_64") == "validation recall at 64"
    assert title_of("recall_64_tokens") == "recall on test, 64 tokens"
    assert show("scratch_bytes", 2048) == "2.0 KiB"
    assert show("wait_seconds", 75) == "1 min 15 s"
    assert metric("new_figure").title == "new figure" and metric("new_figure").unit == ""


@pytest.mark.parametrize(
    ("names", "repeated"),
    [
        (["recall", "recall_at_64", "recall_at_64_ish", "validation_recall_at_64"], [1, 3]),
        (["recall_at_64", "recall_at_512", "validation_recall_at_64"], [2]),
        (["recall_at_32", "recall_sliding_at_64", "perplexity_sliding_at_64_stride_8"], [2]),
        (["one.recall_at_64", "two.recall_at_64", "two.recall_at_512", "two.perplexity_at_64"], [0, 3]),
        (["state_bytes_at_512", "loss_at_position_8", "decode_tokens_per_second_at_512"], []),
    ],
)
def test_the_figure_of_the_only_rows_is_that_of_all(names: list[str], repeated: list[int]) -> None:
    assert without_repeats(names) == [name for at, name in enumerate(names) if at not in repeated]


def test_figures_at_a_context_are_shown_as_those_without_one() -> None:
    name = "decode_tokens_per_second_at_4096"
    assert title_of(name) == "decode tokens/s at 4096"
    assert metric(name).axis == "decoding throughput (tokens/s), context of 4096"
    assert metric(name).join([1.0, 2.0, 9.0]) == 2.0
    assert show("state_bytes_at_512", 2048) == "2.0 KiB"
    assert title_of("time_between_tokens_p95_ms_at_512") == "time between tokens, p95 (ms) at 512"
    assert (named_in_condition(name), name_for_condition(name)) == (name, name)
    told = columns_of([Objective(metric="recall"), Objective(metric=name)])
    assert told[name] == title_of(name) and "state_bytes_at_*" not in told


def test_a_latency_is_as_precise_as_the_rate_it_belongs_to() -> None:
    names = (
        "time_between_tokens_p95_ms_at_512",
        "decode_roofline_share_at_512",
        "time_to_first_token_p50_ms",
        "max_batch_size",
        "recall_at_64",
    )
    objectives = [Objective(metric=name, direction="min", reference=1.0) for name in names]
    assert rates_of(objectives) == ("decode_tokens_per_second_at_512", "prefill_tokens_per_second")


def test_energy_is_told_from_the_other_objectives_at_any_context() -> None:
    joules = ("decode_joules_per_token", "decode_joules_per_token_at_512")
    names = ("recall", joules[0], "state_bytes", joules[1], "decode_tokens_per_second_at_512")
    assert energies_of(Objective(metric=name, direction="min", reference=1.0) for name in names) == joules


def test_seeds_are_joined_by_the_mean_or_for_what_is_timed_by_the_median() -> None:
    assert metric("decode_tokens_per_second").join([1.0, 2.0, 9.0]) == 2.0
    assert metric("validation_recall").join([1.0, 2.0, 9.0]) == 4.0
    assert metric("a_new_metric").join([1.0, 2.0, 9.0]) == 4.0


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("recall", "validation_recall"),
        ("test_recall", "recall"),
        ("recall_at_512", "validation_recall_at_512"),
        ("test_recall_at_512", "recall_at_512"),
        ("state_bytes", "state_bytes"),
        ("recallable", "recallable"),
    ],
)
def test_conditions_mean_validation_unless_they_say_test(said: str, meant: str) -> None:
    assert (named_in_condition(said), name_for_condition(meant)) == (meant, said)


def test_columns_show_recall_on_both_splits() -> None:
    objectives = [Objective(metric="recall"), Objective(metric="decode_tokens_per_second")]
    assert columns_of(objectives) == {
        "validation_recall": "recall",
        "recall": "recall on test",
        "decode_tokens_per_second": "decode tokens/s",
        "state_bytes": "state",
    }


def test_what_a_rerun_compares() -> None:
    assert set(compared("curve")) == {"loss", "validation_loss", "validation_recall"}
    assert set(compared("final")) == {"recall", "test_loss", "parameters", "state_bytes"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (18420, "5 h 07 min"),
        (None, "–"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
