"""Every synthetic task as a task: its splits, its lengths, its slices and what it refuses."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recallfront.sweeps.drawing import draw_slots
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, Counts, StoredTask, Task
from recallfront.sweeps.tasks.copying import CopyingQuestion, copying
from recallfront.sweeps.tasks.mad_compression import compression
from recallfront.sweeps.tasks.mad_memorization import memorization, memorized_facts
from recallfront.sweeps.tasks.registry import find, names, parse_task

PAIRS: dict[str, Any] = {"num_kv_pairs": 4, "examples": 6}
# Settings, then the rows of a segment, then what makes longer ones of them.
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "compositional_mqar": ({"vocab_size": 64}, PAIRS | {"input_seq_len": 32}, {"input_seq_len": 48}),
    "copying": ({}, {"min_length": 4, "max_length": 8, "examples": 6}, {"min_length": 16, "max_length": 16}),
    "cumulative_majority": ({}, {"length": 9, "examples": 6}, {"length": 17}),
    "cumulative_parity": ({}, {"length": 9, "examples": 6}, {"length": 17}),
    "disjoint_sets": (
        {"vocab_size": 64},
        {"short_length": 3, "long_length": 6, "examples": 6},
        {"short_length": 12},
    ),
    "forgetting_mqar": ({"vocab_size": 64}, PAIRS | {"input_seq_len": 32}, {"input_seq_len": 48}),
    "induction_heads": ({}, {"length": 16, "examples": 6}, {"length": 64}),
    "mad_compression": ({}, {"length": 16, "examples": 6}, {"length": 24}),
    "mad_fuzzy_in_context_recall": ({}, {"length": 48, "examples": 6}, {"length": 64}),
    "mad_in_context_recall": ({}, {"length": 16, "examples": 6}, {"length": 32}),
    "mad_memorization": ({"vocab_size": 32}, {"length": 16, "examples": 6}, {"length": 32}),
    "mad_noisy_in_context_recall": ({}, {"length": 16, "examples": 6}, {"length": 32}),
    "mad_selective_copying": ({"num_tokens_to_copy": 4}, {"length": 16, "examples": 6}, {"length": 32}),
    "majority": ({}, {"length": 9, "examples": 6}, {"length": 17}),
    "mini_mqar": ({"vocab_size": 64}, PAIRS | {"num_queries": 2}, {"num_kv_pairs": 8}),
    "mqar": ({"vocab_size": 64}, PAIRS | {"input_seq_len": 16}, {"input_seq_len": 32}),
    "parity": ({}, {"length": 9, "examples": 6}, {"length": 17}),
    "phonebook": ({}, {"entries": 3, "examples": 6}, {"entries": 6}),
    "ruler_needles": ({"value_digits": 2}, {"length": 32, "examples": 6}, {"length": 64}),
    "ruler_variable_tracking": (
        {"value_digits": 2, "num_hops": 1, "num_chains": 2},
        {"length": 64, "examples": 6},
        {"length": 96},
    ),
    "safari_associative_recall": ({}, {"length": 16, "examples": 6}, {"length": 32}),
    "safari_induction_head": ({}, {"length": 16, "examples": 6}, {"length": 32}),
    "selective_copying": ({"num_tokens_to_copy": 4}, {"length": 16, "examples": 6}, {"length": 32}),
    "vocab_majority": ({}, {"length": 9, "examples": 6}, {"length": 17}),
}
DRAWN_ANEW = sorted(set(TASKS) - {"mad_memorization"})


def make(name: str, **changes: Any) -> Task:
    settings, rows, longer = TASKS[name]
    splits = {"train": [rows], "validation": [rows, rows | longer], "test": [rows, rows | longer]}
    task = parse_task({"name": name, **settings, **splits, **changes})
    assert isinstance(task, Task)
    return task


def test_every_task_is_tried_here() -> None:
    assert set(TASKS) == {name for name in names() if not issubclass(find(name), StoredTask)}


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_of_the_vocabulary_and_as_long_as_told(name: str) -> None:
    task = make(name)
    for split in SPLITS:
        segments = task.build(split)
        assert len({segment.name for segment in segments}) == len(segments) == len(task.rows_of(split))  # type: ignore[attr-defined]
        for segment in segments:
            inputs, labels = segment.inputs[:], segment.labels[:]
            assert inputs.dtype == labels.dtype == torch.int64 and inputs.shape == labels.shape
            assert len(inputs) == 6 and inputs.shape[1] <= task.longest
            assert inputs.min() >= 0 and inputs.max() < task.vocab_size
            answers = labels[labels != IGNORED]
            assert answers.min() >= 0 and answers.max() < task.vocab_size
            assert ((labels != IGNORED).sum(dim=1) > 0).all(), "a row asks for nothing"


@pytest.mark.parametrize("name", TASKS)
def test_rows_follow_from_the_seed_alone(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (make(name, **seed).build("test")[1].inputs[:] for seed in ({}, {}, {"seed": 9}))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", DRAWN_ANEW)
def test_segments_of_different_splits_differ(name: str) -> None:
    task = make(name)
    train, validation, test = (task.build(split)[0].inputs[:] for split in SPLITS)
    assert not torch.equal(train, test) and not torch.equal(validation, test)
    assert not torch.equal(train, validation)


@pytest.mark.parametrize("name", TASKS)
def test_recall_is_told_at_each_length_and_of_each_slice(name: str) -> None:
    """What is counted by hand of made-up answers: everything right at the first length, nothing at the second."""
    task = make(name)
    lengths = task.lengths("test")
    assert len(lengths) == 2
    segments, slices = {}, dict[str, Counts]()
    for right, segment in enumerate(task.build("test")):
        inputs, labels = segment.inputs[:], segment.labels[:]
        asked = labels != IGNORED
        segments[segment.name] = Counts(
            float(asked.sum() * (1 - right)), 0.0, float(asked.sum()), inputs.shape[1]
        )
        for part, mask in task.slices(inputs, labels).items():
            assert mask.shape == labels.shape and not (mask & ~asked).any() and mask.any()
            before = slices.get(part, Counts(0.0, 0.0, 0.0, 0))
            own = Counts(float(mask.sum() * (1 - right)), 0.0, float(mask.sum()), inputs.shape[1])
            slices[part] = before.plus(own)
    found = task.figures(segments, slices)
    assert found[f"recall_at_{lengths[0]}"] == 1.0 and found[f"recall_at_{lengths[1]}"] == 0.0
    total = sum(counts.asked for counts in segments.values())
    assert total == task.questions("test")
    assert found["recall"] == next(iter(segments.values())).asked / total


def asked_for(name: str, **changes: Any) -> tuple[Tensor, Tensor]:
    segment = make(name, **changes).build("test")[0]
    return segment.inputs[:], segment.labels[:]


def test_induction_heads_ask_for_the_token_after_the_first_special_one() -> None:
    inputs, labels = asked_for("induction_heads")
    assert ((inputs == 0).sum(dim=1) == 2).all() and (inputs[:, -1] == 0).all()
    for row, asked in zip(inputs, labels, strict=True):
        assert asked[-1] == row[int((row == 0).int().argmax()) + 1] and (asked[:-1] == IGNORED).all()


def test_induction_heads_are_counted_by_distance() -> None:
    inputs, labels = asked_for("induction_heads", test=[{"length": 16, "examples": 500}])
    parts = make("induction_heads").slices(inputs, labels)
    assert set(parts) == {"distance_2", "distance_4", "distance_8"}
    distance = 15 - (inputs == 0).int().argmax(dim=1)
    assert distance.min() == 2 and distance.max() == 15
    assert torch.equal(parts["distance_4"][:, -1], (distance >= 4) & (distance < 8))
    assert torch.equal(sum(parts.values(), torch.zeros_like(labels)), (labels != IGNORED).long())


def test_compression_asks_for_every_token_after_the_marker() -> None:
    inputs, labels = asked_for("mad_compression")
    assert inputs.shape[1] == 30 and (inputs[:, 15:] == 15).all()
    assert torch.equal(labels[:, 15:], inputs[:, :15]) and (labels[:, :15] == IGNORED).all()


def test_memorized_facts_are_those_of_training() -> None:
    task = make("mad_memorization", train=[{"length": 16, "examples": 200}])
    pairs = [
        {
            (int(k), int(v))
            for k, v in zip(s.inputs[:][:, ::2].flatten(), s.labels[:][:, 1::2].flatten(), strict=True)
        }
        for s in (task.build("train")[0], task.build("test")[0])
    ]
    assert pairs[1] <= pairs[0] and len({key for key, _ in pairs[0]}) == len(pairs[0]) == 15


def test_noise_of_compression_and_memorization_is_the_authors() -> None:
    noise: dict[str, Any] = {"vocab_size": 24, "seq_len": 12, "noise_vocab_size": 8, "frac_noise": 0.4}
    # rows of the authors' own functions from this seed
    tokens, asked = compression(np.random.default_rng(5), **noise)
    assert tokens == asked == [10, 18, 16, 12, 22, 7, 9, 4, 14, 20, 4, 23]
    facts = memorized_facts(24, 5, noise_vocab_size=8)
    tokens, asked = memorization(np.random.default_rng(5), facts, **noise)
    assert tokens == [5, 23, 6, 23, 17, 17, 2, 23, 1, 23, 15, 16]
    assert asked == [{1: 14, 3: 11, 7: 10, 9: 7}.get(place, IGNORED) for place in range(len(tokens))]


def test_disjoint_sets_tell_what_the_order_is_worth() -> None:
    task = make(
        "disjoint_sets",
        test=[
            {"short_length": 3, "long_length": 6, "examples": 6},
            {"short_length": 6, "long_length": 3, "examples": 6},
        ],
    )
    parts = {part for s in task.build("test") for part in task.slices(s.inputs[:], s.labels[:])}
    assert parts == {"first_shorter", "first_longer"}
    counts = {"first_shorter": Counts(3, 0, 4, 12), "first_longer": Counts(1, 0, 4, 12)}
    assert task.figures({"a": Counts(4, 0, 8, 12)}, counts)["recall_order_gap"] == 0.5


def test_forgetting_asks_for_the_last_value() -> None:
    inputs, labels = asked_for("forgetting_mqar", random_non_queries=False)
    assert (labels != IGNORED).any()
    for row, asked in zip(inputs.tolist(), labels.tolist(), strict=True):
        last = {row[at]: row[at + 1] for at in range(0, 16, 2)}
        assert all(answer == last[key] for key, answer in zip(row, asked, strict=True) if answer != IGNORED)


@pytest.mark.parametrize("kind", ["sentence", "noise", "needles"])
@pytest.mark.parametrize(("keys", "values", "queries"), [(1, 1, 1), (4, 1, 1), (1, 4, 1), (4, 2, 3)])
def test_needles_are_in_the_haystack_and_their_depth_is_known(
    kind: str, keys: int, values: int, queries: int
) -> None:
    own = {"haystack_kind": kind, "num_keys": keys, "num_values": values, "num_queries": queries}
    rows = [{"length": 255, "examples": 40}]
    task = make("ruler_needles", value_digits=3, **own, train=rows, validation=rows, test=rows)
    segment = task.build("test")[0]
    inputs, labels = segment.inputs[:], segment.labels[:]
    question = 3 + 3 * values
    context = 256 - queries * question
    assert ((labels != IGNORED).sum(1) == 3 * values * queries).all()
    for row, asked in zip(inputs.tolist(), labels.tolist(), strict=True):
        for start in range(context, 256 - 1, question):
            ask, key, mark = row[start : start + 3]
            told = [row[at + 2 : at + 5] for at in range(context) if row[at] == key]
            assert ask == 2 and mark == 0 and len(told) == values
            assert asked[start + 2 : start + 2 + 3 * values] == sum(told, [])
    parts = task.slices(inputs, labels)
    assert set(parts) <= {f"depth_{n}" for n in range(10)} and len(parts) > 3
    assert torch.equal(sum(parts.values(), torch.zeros_like(labels)), (labels != IGNORED).long())


def test_variables_of_the_chain_are_asked_for_in_order() -> None:
    rows = [{"length": 128, "examples": 20}]
    inputs, labels = asked_for("ruler_variable_tracking", num_hops=2, **{split: rows for split in SPLITS})
    for row, asked in zip(inputs.tolist(), labels.tolist(), strict=True):
        value = row[-5:-3]
        first = next(row[at - 2] for at in range(2, 120) if row[at - 1] == 3 and row[at : at + 2] == value)
        chain = [first]
        while len(chain) < 3:
            at = next(at for at in range(2, 120) if row[at - 1] == 3 and row[at] == chain[-1])
            chain.append(row[at - 2])
        assert [answer for answer in asked if answer != IGNORED] == chain


def test_the_phonebook_has_the_number_that_is_asked_for() -> None:
    rows = [{"entries": 9, "examples": 30}]
    inputs, labels = asked_for("phonebook", test=rows)
    assert inputs.shape[1] == 14 * 9 + 42
    for row, asked in zip(inputs.tolist(), labels.tolist(), strict=True):
        book = {tuple(row[at : at + 2]): row[at + 3 : at + 13] for at in range(0, 14 * 9, 14)}
        assert len(book) == 9 and row[14 * 9] == 11
        assert book[tuple(row[-12:-10])] == asked[-10:] and 6 <= asked[-10] <= 9
        assert tuple(row[-12:-10]) not in {tuple(row[at : at + 2]) for at in (14 * 9 + 1, 14 * 10 + 1)}
    parts = make("phonebook").slices(inputs, labels)
    digits = [mask for name, mask in parts.items() if name.startswith("digit")]
    back = [mask for name, mask in parts.items() if name.startswith("entries_back")]
    for masks in (digits, back):
        assert torch.equal(sum(masks, torch.zeros_like(labels)), (labels != IGNORED).long())
    assert len(digits) == 10 and set(parts) >= {"entries_back_1", "entries_back_2", "entries_back_4"}


def test_duplicate_ngrams_are_for_tests_alone() -> None:
    task = make("copying", test_question="duplicate_ngram", n_gram=1)
    inputs = task.build("test")[1].inputs[:]
    assert inputs.shape[1] <= task.longest and (inputs[:, 17] == 27).all()
    rows = task.model_dump()["test"]
    alike: dict[str, Any] = {"n_gram": 1, "train": rows, "validation": rows, "test": rows}
    asks = make("copying", test_question="duplicate_ngram", **alike)
    always = make("copying", question="duplicate_ngram", **alike)
    for split in SPLITS:  # whatever the rows
        same = torch.equal(asks.build(split)[1].inputs[:], always.build(split)[1].inputs[:])
        assert same == (split != "train")


@pytest.mark.parametrize("question", ["copy", "prefix_ngram", "suffix_ngram", "duplicate_ngram"])
def test_a_negative_length_of_the_answer_is_all_of_it(question: CopyingQuestion) -> None:
    def rows(length_answer: int) -> tuple[Any, Any]:
        return copying(
            letters=20,
            num_examples=4,
            min_length=8,
            max_length=12,
            context=40,
            packed=False,
            question=question,
            n_gram=2,
            length_answer=length_answer,
            seed=3,
        )

    for negative, nothing in zip(rows(-1), rows(0), strict=True):
        assert (negative == nothing).all()


def test_fuzzy_recall_has_the_vocabularies_of_mad_and_large_ones_of_short_motifs() -> None:
    for changes in ({"vocab_size": 128}, {"vocab_size": 1024, "k_motif_size": 1, "v_motif_size": 2}):
        make("mad_fuzzy_in_context_recall", **changes)


def test_the_steepest_power_law_can_be_drawn_at_the_greatest_length() -> None:
    slots = draw_slots(np.random.RandomState(0), 2**19, 2, 4, power_a=10.0)
    assert slots.shape == (2, 4) and slots.min() >= 0


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("forgetting_mqar", {"train": [PAIRS | {"input_seq_len": 22}]}, "num_kv_pairs=4: needs"),
        (
            "forgetting_mqar",
            {"train": [PAIRS | {"input_seq_len": 32, "num_updates": 5}]},
            "num_updates=5: must be at most num_kv_pairs=4",
        ),
        ("compositional_mqar", {"train": [PAIRS | {"input_seq_len": 22}]}, "at most input_seq_len / 6 = 3"),
        (
            "compositional_mqar",
            {"train": [{"num_kv_pairs": 5, "examples": 6, "input_seq_len": 32}]},
            "num_kv_pairs=5: must be a square",
        ),
        ("disjoint_sets", {"vocab_size": 12}, "long_length=6: vocab_size=12 leaves this set at most 2"),
        ("mini_mqar", {"train": [PAIRS | {"num_queries": 5}]}, "num_queries=5: must be at most"),
        ("mad_in_context_recall", {"frac_noise": 0.2}, "noise_vocab_size=0: must be at least 1"),
        ("mad_in_context_recall", {"noise_vocab_size": 15}, "leaves no key and value of vocab_size=16"),
        ("mad_fuzzy_in_context_recall", {"vocab_size": 6}, "leaves 2 tokens for keys"),
        (
            "mad_fuzzy_in_context_recall",
            {"train": [{"length": 12, "examples": 1}]},
            "length=12: must be at least 13",
        ),
        (
            "mad_fuzzy_in_context_recall",
            {"vocab_size": 256},
            "vocab_size=256: makes 4,048,506 keys and values of k_motif_size=3 and v_motif_size=3, all of which",
        ),
        *(
            (name, {"train": [{"length": 1, "examples": 1}]}, "input should be greater than or equal to 2")
            for name in ("parity", "majority", "vocab_majority")
        ),
        ("mqar", {"power_a": 1e6}, "=1000000.0: input should be less than or equal to 10"),
        ("mad_selective_copying", {"num_tokens_to_copy": 8}, "length=16: must be at least"),
        ("selective_copying", {"num_tokens_to_copy": 9}, "length=16: must be at least"),
        (
            "induction_heads",
            {"train": [{"length": 2, "examples": 1}]},
            "=2: input should be greater than or equal to 3",
        ),
        ("parity", {"vocab_size": 2}, "=2: input should be greater than or equal to 3"),
        (
            "copying",
            {"question": "suffix_ngram"},
            "min_length=4: must be at least n_gram + length_answer + 3 = 6",
        ),
        (
            "copying",
            {"test": [{"min_length": 4, "max_length": 8, "context": 18, "examples": 1}]},
            "context=18: must be at least 19 with max_length=8",
        ),
        ("phonebook", {"vocab_size": 16}, "entries=6: vocab_size=16 has only 4 names"),
        ("ruler_needles", {"num_queries": 2}, "num_queries=2: must be at most num_keys=1"),
        ("ruler_needles", {"num_keys": 9}, "length=32: has no room"),
        ("ruler_needles", {"num_names": 4, "haystack_kind": "needles"}, "num_names=4: must be at least 5"),
        ("ruler_needles", {"vocab_size": 142}, "vocab_size=142: must be above 142"),
        ("ruler_variable_tracking", {"num_hops": 5}, "length=64: has no room"),
    ],
)
def test_what_cannot_be_is_told(name: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as refused:
        make(name, **change)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ruler_needles", {"num_keys": 3}),
        ("ruler_needles", {"num_keys": 2, "num_values": 2, "haystack_kind": "sentence"}),
        ("ruler_needles", {"num_queries": 2, "num_keys": 2, "haystack_kind": "needles"}),
        ("ruler_variable_tracking", {"num_chains": 2, "haystack_kind": "noise"}),
    ],
)
def test_the_least_length_that_a_refusal_tells_is_the_least(name: str, settings: dict[str, Any]) -> None:
    def of_length(length: int) -> Any:
        rows = [{"length": length, "examples": 2}]
        return make(name, **settings, train=rows, validation=rows, test=rows)

    with pytest.raises(ValueError) as refused:
        of_length(8)
    (least,) = re.findall(r"length=8: has no room .*; it must be at least (\d+)", str(refused.value))
    assert of_length(int(least))
    with pytest.raises(ValueError, match="has no room"):
        of_length(int(least) - 1)


def test_a_string_longer_than_the_context_is_not_cut() -> None:
    """The authors' evaluation rows: as long as the longest string, padded."""
    tokens, asked = copying(
        letters=26,
        num_examples=5,
        min_length=6,
        max_length=6,
        context=13,
        packed=False,
        question="copy",
        n_gram=0,
        length_answer=-1,
        seed=0,
    )
    assert tokens.shape == (5, 15) and (asked.sum(1) == 7).all()
    assert (tokens[:, -1] == 28).all() and (tokens[:, 1:7] == tokens[:, 8:14]).all()
