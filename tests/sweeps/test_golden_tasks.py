"""Rows of every task equal those of the authors' own code: one test per file of golden rows.

The files are read from the folder that RECALLFRONT_GOLDEN_TASKS names, by default tests/golden/tasks; a file that no
task here is known for fails.
"""

import json
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch

from recallfront.sweeps.ar_hits import BigramCounts, ar_hits, previous_occurrence
from recallfront.sweeps.continuous_mqar import continuous_mqar
from recallfront.sweeps.phonebook_text import phonebooks
from recallfront.sweeps.recall_suite import DATA_SETS, as_it_is, contains, located_answer, truncated
from recallfront.sweeps.ruler_text import Question, needles, variable_tracking
from recallfront.sweeps.tasks.compositional_mqar import compositional_mqar
from recallfront.sweeps.tasks.copying import copying, shifted
from recallfront.sweeps.tasks.cumulative_majority import cumulative_majority
from recallfront.sweeps.tasks.cumulative_parity import cumulative_parity
from recallfront.sweeps.tasks.disjoint_sets import disjoint_sets
from recallfront.sweeps.tasks.forgetting_mqar import forgetting_mqar
from recallfront.sweeps.tasks.mad_compression import compression
from recallfront.sweeps.tasks.mad_fuzzy_in_context_recall import fuzzy_in_context_recall
from recallfront.sweeps.tasks.mad_in_context_recall import in_context_recall
from recallfront.sweeps.tasks.mad_memorization import memorization, memorized_facts
from recallfront.sweeps.tasks.mad_selective_copying import selective_copying as mad_selective_copying
from recallfront.sweeps.tasks.majority import majority
from recallfront.sweeps.tasks.mini_mqar import mini_mqar
from recallfront.sweeps.tasks.parity import parity
from recallfront.sweeps.tasks.safari_associative_recall import SafariAssociativeRecall
from recallfront.sweeps.tasks.safari_induction_head import SafariInductionHead
from recallfront.sweeps.tasks.selective_copying import selective_copying
from recallfront.sweeps.tasks.vocab_majority import vocab_majority
from recallfront.sweeps.windows import evaluation_windows

FOLDER = Path(os.environ.get("RECALLFRONT_GOLDEN_TASKS", Path(__file__).parents[1] / "golden" / "tasks"))
Args = dict[str, Any]
Arrays = dict[str, np.ndarray]
Row = tuple[list[int], list[int]]


def mad(args: Args, row: Callable[[bool], Row]) -> Arrays:
    """The rows of one split, after those of the training split that come first in the stream."""
    for _ in range(args["rows_drawn_before"]):
        row(True)
    rows = [row(args["split"] == "train") for _ in range(args["rows"])]
    return {"inputs": np.array([x for x, _ in rows]), "labels": np.array([y for _, y in rows])}


def mad_recall(args: Args) -> Arrays:
    rng = np.random.default_rng(args["seed"])
    row = in_context_recall(
        vocab_size=args["vocab_size"],
        noise_vocab_size=args["noise_vocab_size"],
        frac_noise=args["frac_noise"],
        multi_query=args["multi_query"],
    )
    return mad(args, lambda training: row(rng, args["seq_len"], training))


def mad_fuzzy(args: Args) -> Arrays:
    rng = np.random.default_rng(args["seed"])
    row = fuzzy_in_context_recall(
        **{
            key: args[key]
            for key in (
                "vocab_size",
                "k_motif_size",
                "v_motif_size",
                "noise_vocab_size",
                "frac_noise",
                "multi_query",
            )
        }
    )
    return mad(args, lambda training: row(rng, args["seq_len"], training))


def mad_copying(args: Args) -> Arrays:
    rng, legacy = np.random.default_rng(args["seed"]), np.random.RandomState(args["seed"])
    settings = {key: args[key] for key in ("vocab_size", "seq_len", "num_tokens_to_copy")}
    return mad(args, lambda _: mad_selective_copying(rng, legacy, **settings))


def mad_compression(args: Args) -> Arrays:
    rng = np.random.default_rng(args["seed"])
    settings = {key: args[key] for key in ("vocab_size", "seq_len", "noise_vocab_size", "frac_noise")}
    return mad(args, lambda _: compression(rng, **settings))


def mad_memorization(args: Args) -> Arrays:
    rng = np.random.default_rng(args["seed"])
    settings = {key: args[key] for key in ("vocab_size", "seq_len", "noise_vocab_size", "frac_noise")}
    facts = memorized_facts(args["vocab_size"], args["seed"], noise_vocab_size=args["noise_vocab_size"])
    return mad(args, lambda _: memorization(rng, facts, **settings))


def called(draw: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Callable[[Args], Arrays]:
    """A generator that takes the authors' own arguments."""

    def rows(args: Args) -> Arrays:
        wanted = signature(draw).parameters
        inputs, labels = draw(**{key: value for key, value in args.items() if key in wanted})
        return {"inputs": inputs, "labels": labels}

    return rows


def s4_selective_copying(args: Args) -> Arrays:
    inputs, labels = selective_copying(
        num_examples=args["rows"],
        noise=args["L"],
        data=args["M"],
        vocab_size=args["A"],
        **{key: args[key] for key in ("seed", "variable", "reverse")},
    )
    return {"inputs": inputs, "labels": labels, "targets": labels[:, -args["M"] :]}


def safari(args: Args) -> Arrays:
    """Rows of a split as the tasks give them, or `raw` in the order of drawing."""
    settings = {
        "vocab_size": args["vocab_size"],
        "seed": args["seed"],
        "train": [{"length": args["input_seq_len"], "examples": args["num_examples"]}],
        "test": [
            {
                "length": args.get("test_seq_len", args["input_seq_len"]),
                "examples": args["num_test_examples"],
            }
        ],
        "validation": [{"length": args["input_seq_len"], "examples": 1}],
    }
    own = ("induction_len", "induction_num_triggers", "num_keys", "allow_dot")
    kind = SafariInductionHead if args["copy_method"] == "induction_head" else SafariAssociativeRecall
    task = kind.model_validate(settings | {key: args[key] for key in own if key in args})
    assert args["vocab"] == sorted(args["vocab"]) and len(args["vocab"]) == args["vocab_size"]
    if args["split"] == "raw":
        rng = np.random.default_rng(args["seed"])
        return {"ids": np.array([task.row(rng, args["input_seq_len"]) for _ in range(8)])}
    (segment,) = task.build(args["split"])
    return {"inputs": segment.inputs[:].numpy(), "labels": segment.labels[:].numpy()}


def copy_ngram(args: Args) -> Arrays:
    tokens, asked = copying(
        letters=min(args["vocab_size"], len(ascii_lowercase)),  # all that the authors' have
        num_examples=args["rows"],
        packed=args["kind"] == "train",
        question=args["task"],
        **{
            key: args[key]
            for key in ("min_length", "max_length", "context", "n_gram", "length_answer", "seed")
        },
    )
    inputs, labels = shifted(tokens, asked)
    return {"ids": tokens, "mask": asked, "inputs": inputs, "labels": labels}


def windows(args: Args, _: Arrays) -> Arrays:
    source, target = evaluation_windows(args["tokens"], window=args["window"], stride=args["stride"])
    return {"source_positions": source, "target_positions": target}


def hits(args: Args, given: Arrays) -> Arrays:
    rows = given["tokens"]
    vocab_size = int(max(rows.max(), given["train"].max())) + 1
    training = BigramCounts.of(given["train"], vocab_size)
    return {
        "train_count": training.ending_at(rows),
        "previous": previous_occurrence(rows, vocab_size),
        "hit": ar_hits(rows, training, threshold=args["threshold"]),
    }


def continuous(args: Args, given: Arrays) -> Arrays:
    settings = {key: value for key, value in args.items() if key != "call"}
    inputs, labels = continuous_mqar(torch.from_numpy(given["embeddings"]), **settings)
    return {"inputs": inputs.numpy(), "labels": labels.numpy()}


def phonebook(args: Args) -> Arrays:
    pytest.importorskip("names")
    books = list(phonebooks(entries=args["entries"], num_examples=args["rows"], seed=args["seed"]))
    return {"prompts": np.array([b.prompt for b in books]), "answers": np.array([b.answer for b in books])}


def ruler(draw: Callable[..., list[Question]]) -> Callable[[Args], Arrays]:
    def rows(args: Args) -> Arrays:
        pytest.importorskip("wonderwords")
        wanted = signature(draw).parameters
        own = {key: value for key, value in args.items() if key in wanted}
        found = draw(count=lambda text: len(text.split()), **own)
        return {
            "prompts": np.array([q.prompt for q in found]),
            "answer_prefix": np.array([q.answer_prefix for q in found]),
            "outputs": np.array([json.dumps(q.answers) for q in found]),
            "length": np.array([q.length for q in found]),
        }

    return rows


def suite(_: Args, given: Arrays) -> Arrays:
    """Prompts of both harnesses, scores, and contexts truncated with words for tokens."""
    prompts = []
    for document in map(json.loads, given["docs"]):
        name = document["task"].removeprefix("based_").removesuffix("_completion").removesuffix("v2")
        if "harness" in document:
            prompts.append(as_it_is(document["doc"]))
        else:
            prompts.append(DATA_SETS[name].prompt(document["doc"], document["twice"]))
    cut = []
    for args in map(json.loads, given["truncate_args"]):
        document = args.pop("doc")
        wanted = [located_answer(document, key) for key in args.pop("answer_key")]
        cut.append(
            truncated(
                document["context"],
                wanted,
                alternatives=document.get("alt_answers", ()),
                token_place=document.get("tok_pos"),
                encode=str.split,
                decode=" ".join,
                **args,
            )
        )
    pairs = zip(given["continuations"], map(json.loads, given["answers"]), strict=True)
    return {
        "prompts": np.array(prompts),
        "contains": np.array([contains(str(text), answers) for text, answers in pairs]),
        "truncated": np.array(["<dropped>" if text is None else text for text in cut]),
    }


DRAWN: dict[str, Callable[[Args], Arrays]] = {
    "copy_ngram": copy_ngram,
    "jrt_disjoint_sets": called(disjoint_sets),
    "jrt_mini_mqar": called(mini_mqar),
    "mad_compression": mad_compression,
    "mad_fuzzy_in_context_recall": mad_fuzzy,
    "mad_in_context_recall": mad_recall,
    "mad_memorization": mad_memorization,
    "mad_noisy_in_context_recall": mad_recall,
    "mad_selective_copying": mad_copying,
    "phonebook_text": phonebook,
    "ruler_niah": ruler(needles),
    "ruler_variable_tracking": ruler(variable_tracking),
    "safari_associative_recall": safari,
    "safari_induction_head": safari,
    "s4_selective_copying": s4_selective_copying,
    "zoology_compositional_mqar": called(compositional_mqar),
    "zoology_cumulative_majority": called(cumulative_majority),
    "zoology_cumulative_parity": called(cumulative_parity),
    "zoology_forgetting_mqar": called(forgetting_mqar),
    "zoology_majority": called(majority),
    "zoology_parity": called(parity),
    "zoology_vocab_majority": called(vocab_majority),
}

# What is computed of other arrays of the file.
DERIVED: dict[str, Callable[[Args, Arrays], Arrays]] = {
    "alibi_eval_windows": windows,
    "ar_hits_derived": hits,
    "recall_suite_prompts": suite,
    "zoology_continuous_mqar": continuous,
}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.npz")), ids=lambda file: file.stem)
def test_rows_are_the_authors(file: Path) -> None:
    assert file.stem in DRAWN | DERIVED, f"{file.name}: no task is known for it"
    with np.load(file) as arrays:
        # a file without settings is one setting
        settings = [key for key in arrays.files if key.startswith("args_")] or [""]
        for key in settings:
            args = json.loads(str(arrays[key])) if key else {}
            own = key.removeprefix("args")
            given = {name.removesuffix(own): arrays[name] for name in arrays.files if name.endswith(own)}
            drawn_of = DERIVED.get(file.stem) or (lambda args, _: DRAWN[file.stem](args))
            for name, drawn in drawn_of(args, given).items():
                np.testing.assert_array_equal(drawn, given[name], err_msg=f"{file.name} {name} {args}")


def test_there_are_files() -> None:
    assert list(FOLDER.glob("*.npz"))
