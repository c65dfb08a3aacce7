"""A trial that writes with drafts: what it reports, and that nothing else of it changes."""

import errno
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recallfront.models import load
from recallfront.models.decoding.generation import generate
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial.quiet import aside_seconds
from recallfront.platform.trial.speculation import draft_tree, speculated, trained_heads
from recallfront.sweeps.data import load_or_rebuild
from recallfront.sweeps.tasks.registry import parse_task
from tests.platform.specs import refusal
from tests.platform.trial import trials
from tests.platform.trial.trials import rows_of, run, setting

pytestmark = trials.MARKS
ASKED: dict[str, Any] = {
    "tree": [2, 1],
    "steps": 12,
    "prompts": 3,
    "prompt_length": 5,
    "new_tokens": 9,
    "repeats": 3,
}
SHORT_ROWS = {
    split: [{"input_seq_len": 8, "num_kv_pairs": 2, "examples": 64}]
    for split in ("train", "validation", "test")
}
FIGURES = ("speculative_exact", "speculative_accepted", "speculative_speedup")


@pytest.fixture(scope="module")
def with_drafts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Report]]:
    home = tmp_path_factory.mktemp("with-drafts")
    return home, run(home, speculation=ASKED)


def test_the_text_is_greedy_and_the_figures_are_reported(with_drafts: tuple[Path, list[Report]]) -> None:
    *_, last = with_drafts[1]
    assert last.status is Status.FINISHED, last.traceback
    exact, accepted, speedup = (last.figures[name] for name in FIGURES)
    assert exact == 1 and 1 <= accepted <= 3 and speedup > 0
    assert all(name not in report.figures for report in with_drafts[1][:-1] for name in FIGURES)


def test_nothing_else_changes(with_drafts: tuple[Path, list[Report]], tmp_path: Path) -> None:
    home, reports = with_drafts
    plain = run(tmp_path)
    for name in ("loss", "validation_recall"):
        assert rows_of(reports, name) == rows_of(plain, name)
    assert {name: reports[-1].figures[name] for name in ("recall", "test_loss", "parameters")} == {
        name: plain[-1].figures[name] for name in ("recall", "test_loss", "parameters")
    }
    (own,), (other,) = (place.glob("trials/*/model/model.safetensors") for place in (home, tmp_path))
    assert own.read_bytes() == other.read_bytes()


def test_what_is_asked_for_is_part_of_the_identity(tmp_path: Path) -> None:
    plain, asked, more = (
        setting(tmp_path, **changes)[0].key
        for changes in ({}, {"speculation": ASKED}, {"speculation": ASKED | {"steps": 13}})
    )
    assert len({plain, asked, more}) == 3
    assert setting(tmp_path, speculation=None)[0].key == plain


def test_a_model_that_repeats_itself_is_guessed(with_drafts: tuple[Path, list[Report]]) -> None:
    """One that says its last token whatever it reads: every draft is right, and a verification gives as many tokens as
    the tree is deep, and one.
    """
    home, reports = with_drafts
    config, place = setting(home, speculation=ASKED)
    data, _ = load_or_rebuild(config.task, place.data, place.data_digest)
    assert reports[-1].weights is not None
    model = load(Path(reports[-1].weights))
    with torch.no_grad():
        for parameter in (*model.layers.parameters(), model.embedding.weight):
            parameter.zero_()
        model.embedding.weight[:, 0] = torch.arange(float(config.model.vocab_size))
    heads = trained_heads(model, config, data, "cpu")
    found = speculated(model, heads, config, data, "cpu")
    prompt = data.splits["test"][0].inputs[:1][:, :5]
    assert set(generate(model, prompt, max_new_tokens=9)[0]) == {config.model.vocab_size - 1}
    assert found["speculative_exact"] == 1 and found["speculative_accepted"] == 3


def test_a_failure_of_it_costs_nothing_else(
    with_drafts: tuple[Path, list[Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spared: list[float] = []

    def failing(*_: Any) -> None:
        before = aside_seconds()
        time.sleep(0.1)
        spared.append(aside_seconds() - before)  # that the time limit does not count
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("recallfront.platform.trial.training.trained_heads", failing)
    *_, last = run(tmp_path, speculation=ASKED)
    assert last.status is Status.FINISHED and last.weights is not None
    assert last.figures["recall"] == with_drafts[1][-1].figures["recall"]
    assert not any(name in last.figures for name in FIGURES)
    assert last.notices[-1] == (
        "speculation failed (OutOfMemoryError: out of memory): its figures are left out"
    )
    assert spared[0] >= 0.1


def test_a_fault_of_the_machine_leaves_the_trial_to_a_later_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr("recallfront.platform.trial.training.trained_heads", failing)
        *_, last = run(tmp_path, speculation=ASKED)
    assert last.status is Status.LOST
    *_, last = run(tmp_path, speculation=ASKED)
    assert last.status is Status.FINISHED and set(FIGURES) <= last.figures.keys()


def test_heads_read_no_more_of_a_row_than_is_written(
    with_drafts: tuple[Path, list[Report]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, reports = with_drafts
    config, place = setting(home, speculation=ASKED | {"prompt_length": 3, "new_tokens": 2, "steps": 2})
    data, _ = load_or_rebuild(config.task, place.data, place.data_digest)
    model = load(Path(reports[-1].weights or ""))
    read, lengths = model.read, set()

    def counted(tokens: torch.Tensor, *rest: Any) -> Any:
        lengths.add(tokens.shape[1])
        return read(tokens, *rest)

    monkeypatch.setattr(model, "read", counted)
    trained_heads(model, config, data, "cpu")
    assert lengths == {3 + 2 + 2}


@pytest.mark.parametrize(
    ("test", "room"),
    [([{"length": 64, "stride": 16}, {"length": 128}], 64), ([{"stride": 16}], 32), ([{"length": 48}], 48)],
)
def test_prompts_are_of_the_first_kind_of_test_rows(test: list[dict[str, int]], room: int) -> None:
    text = {"name": "text", "source": {"files": "*.txt"}, "length": 32, "test": test}
    assert parse_task(text).prompt_room == room


def test_the_tree_of_some_guesses() -> None:
    assert draft_tree([2, 1]).paths == ((0,), (1,), (0, 0), (1, 0))
    assert len(draft_tree([4, 2, 2, 1])) == 1 + 4 + 8 + 16 + 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speculation": ASKED | {"prompt_length": 17}}, "speculation.prompt_length=17: must be at most 16"),
        (
            {"speculation": ASKED | {"tree": [1] * 8, "prompt_length": 2}, "task": SHORT_ROWS},
            "speculation.tree=[1, 1, 1, 1, 1, 1, 1, 1]: needs train rows of at least 10 tokens, not 8",
        ),
        ({"speculation": ASKED | {"tree": [10, 10, 10]}}, "has 1111 nodes; at most 256"),
        (
            {"speculation": ASKED | {"tree": [11]}},
            "speculation.tree[0]=11: input should be less than or equal to 10",
        ),
        ({"speculation": ASKED | {"head": 1}}, "speculation.head: unknown key"),
        (
            {"speculation": ASKED, "resources": {"workers": 2}, "training": {"batch_size": 16}},
            "speculation: needs resources.workers=1 and training.zero_stage below 3, not 2 and 0",
        ),
        ({"speculation": ASKED, "training": {"zero_stage": 3}}, "below 3, not 1 and 3"),
        (
            {
                "speculation": ASKED | {"new_tokens": 90},
                "space": [{"architecture": "attention", "learned_positions": 40}],
            },
            "learned_positions=40: must be at least 95",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)
