"""The recall suite on a model: a folder, and a text trial of a sweep, whose run gets the figures."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from recallfront.__main__ import run
from recallfront.models import build, parse_config, save
from recallfront.models.decoding.generation import generate
from recallfront.platform import UsageError, rerun, run_sweep
from recallfront.platform.evaluation.recall_suite import evaluate
from recallfront.platform.evaluation.subject import Subject
from recallfront.platform.rerun import Verdict
from recallfront.platform.tracking.ledger import find_run
from recallfront.sweeps import SpecError, SweepSpec
from recallfront.sweeps.recall_suite import DATA_SETS, contains
from recallfront.sweeps.text.tokenizer import ByteTokenizer
from tests.platform.specs import tiny
from tests.platform.stores import ready_home

DOCUMENTS: dict[str, list[dict[str, Any]]] = {
    "swde": [
        {"text": f"Title {n}\nDirector: Person {n}\ndirector:", "key": "director", "value": f"Person {n}"}
        for n in range(5)
    ]
    + [{"text": "Pages: 3", "key": "pages", "value": "3"}],
    "nq": [
        {
            "context": "It is 346 km long. Its length is",
            "question": "Its length is",
            "orig_question": "how long",
            "answers": ["346 km", "e"],
        }
    ],
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    for name, documents in DOCUMENTS.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, documents)))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {"architecture": "hawk", "vocab_size": 257, "width": 16}
    return save(build(parse_config(config), seed=0), tmp_path_factory.mktemp("model"))


def test_shares_are_those_of_each_prompt_continued_alone(suite: Path, model: Path) -> None:
    found = evaluate(str(model), suite, tokenizer="bytes", twice=True)
    assert {name: (score.documents, score.dropped) for name, score in found.scores.items()} == {
        "swde": (5, 1),
        "nq": (1, 0),
    }
    network = build(parse_config(json.loads((model / "recallfront.json").read_text())), seed=0)
    words = ByteTokenizer()
    right = 0
    for document in DOCUMENTS["swde"][:5]:
        prompt = torch.tensor(words.encode([DATA_SETS["swde"].prompt(document, True)])[0].tolist())[None]
        (new,) = generate(network, prompt, max_new_tokens=48)
        right += contains(words.decode(new).partition("\n")[0], [document["value"]])
    assert found.scores["swde"].contained == right
    assert set(found.metrics) == {f"recall_suite_twice_1000_{name}" for name in ("swde", "nq", "mean")}


def test_documents_can_be_few_and_contexts_short(suite: Path, model: Path) -> None:
    found = evaluate(str(model), suite, tokenizer="bytes", context_length=70, most=2)
    assert found.scores["swde"].documents == 2 and "recall_suite_70_nq" in found.metrics


def test_what_only_prompts_with_the_document_twice_need_is_asked_for_with_them_alone(
    tmp_path: Path, model: Path
) -> None:
    texts = [{"text": f"{'far ' * 40}it is number", "value": "seven"}] * 3
    (tmp_path / "squad.jsonl").write_text("\n".join(map(json.dumps, texts)))
    found = evaluate(str(model), tmp_path, tokenizer="bytes", context_length=100)
    assert found.scores["squad"].documents == 3
    with pytest.raises(UsageError, match=r"squad\.jsonl: document 1 has no 'context'"):
        evaluate(str(model), tmp_path, tokenizer="bytes", twice=True)


def test_all_data_sets_are_checked_before_anything_is_generated(
    suite: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated: list[int] = []
    monkeypatch.setattr(Subject, "continued", lambda self, prompts, *_, **__: generated.append(len(prompts)))
    shutil.copy(suite / "swde.jsonl", tmp_path)
    question = {"context": "far " * 30, "question": "is", "answers": ["346 km"]}
    (tmp_path / "drop.jsonl").write_text(json.dumps(question) + "\n{}\n")
    with pytest.raises(UsageError, match=r"drop\.jsonl: document 2 has no 'context'"):
        evaluate(str(model), tmp_path, tokenizer="bytes")
    (tmp_path / "drop.jsonl").write_text(json.dumps(question))
    short = parse_config({"architecture": "hawk", "vocab_size": 257, "width": 16, "learned_positions": 120})
    save(build(short, seed=0), tmp_path / "short")
    with pytest.raises(UsageError, match="the model's learned positions end at 120"):
        evaluate(str(tmp_path / "short"), tmp_path, tokenizer="bytes")
    assert generated == []


def test_a_document_whose_answer_is_null_is_left_out(tmp_path: Path, model: Path) -> None:
    documents: dict[str, list[dict[str, Any]]] = {
        "fda": [{"text": "Name: Anna", "key": "Name", "value": value} for value in (None, "Anna")],
        "drop": [
            {"context": "It is far.", "question": "It is", "answers": answers} for answers in (["far"], None)
        ],
    }
    for name, rows in documents.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate(str(model), tmp_path, tokenizer="bytes")
    assert {(score.documents, score.dropped) for score in found.scores.values()} == {(1, 1)}


@pytest.mark.parametrize(
    ("files", "tokenizer", "told"),
    [
        ({}, "bytes", "holds none of swde, fda, squad, nq, triviaqa, drop as .jsonl or .parquet"),
        ({"swde.jsonl": "{}\n", "swde.json": ""}, "bytes", "has swde twice, as swde.jsonl and swde.json"),
        ({"fda.jsonl": '{"text": "a", "key": "b"}'}, "bytes", "fda.jsonl: document 1 has no 'value'"),
        ({"fda.jsonl": '{"text": "a", "key": null, "value": "c"}'}, "bytes", "document 1 has no 'key'"),
        ({"fda.jsonl": '{"text": '}, "bytes", "fda.jsonl: line 1 is not JSON: "),
        ({"fda.jsonl": "[{}]"}, "bytes", "fda.jsonl: line 1 is a list, not an object"),
        (
            {"fda.jsonl": r'{"text": "a\ud83d", "key": "b", "value": "c"}'},
            "bytes",
            r"fda.jsonl: line 1 has '\ud83d' in 'text', which is half a character",
        ),
        ({"fda.jsonl": ""}, "bytes", "fda.jsonl: has no document with an answer"),
        ({"fda.jsonl": ""}, None, "a folder holds no tokenizer: name one with --tokenizer"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, model: Path, files: dict[str, str], tokenizer: str | None, told: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as refused:
        evaluate(str(model), tmp_path, tokenizer=tokenizer)
    assert told in str(refused.value)


def test_a_tokenizer_of_another_vocabulary(suite: Path, tmp_path: Path) -> None:
    config = parse_config({"architecture": "hawk", "vocab_size": 64, "width": 16})
    save(build(config, seed=0), tmp_path)
    with pytest.raises(UsageError, match="the tokenizer has 257 tokens and the model 64"):
        evaluate(str(tmp_path), suite, tokenizer="bytes")


@contextmanager
def refusing_metrics(home: Path, name: str) -> Iterator[None]:
    """The store of a home, which fails where a metric of that name is written."""
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        store.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON metrics WHEN NEW.key = '{name}' "
            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        yield
        store.execute("DROP TRIGGER refuse")


@pytest.mark.slow
def test_a_text_trial_of_a_sweep_is_evaluated_and_its_run_has_the_figures(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep on text from end to end: on Ray, into MLflow, then the suite with the trial's own tokenizer.

    What comes after the sweep needs its home alone: it is run elsewhere, after the text was deleted.
    """
    monkeypatch.chdir(tmp_path)
    lines = "\n".join(f"Title {n} has director Person {n} and {n * 7} pages" for n in range(80))
    (tmp_path / "text.txt").write_text(lines)
    rows = [{"tokens": 200}]
    task = {
        "name": "text",
        "source": {"files": "*.txt", "documents": "line"},
        "tokenizer": "bpe",
        "vocab_size": 300,
        "length": 12,
        "restart_positions": False,
        "held_out": 0.2,
        "validation": [*rows, {"length": 16, "tokens": 100}],
        "test": rows,
    }
    changes = {"task": task, "space": [{"architecture": "hawk"}]}
    changes["objectives"] = [{"metric": "recall_at_16"}, {"metric": "decode_tokens_per_second"}]
    spec = SweepSpec.model_validate(tiny(name="text", training={"steps": 4, "evaluate_every": 2}) | changes)
    home = ready_home(tmp_path / "home")
    result = run_sweep(spec, home=home)
    (trial,) = result.record.trials
    (tmp_path / "text.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert {"validation_recall_at_16", "validation_perplexity", "perplexity", "bits_per_byte"} <= set(
        trial.metrics
    )
    found = evaluate(trial.run_id[:10], suite, home=home)
    assert found.run_id == trial.run_id
    assert found.metrics.items() <= find_run(result.tracking_uri, trial.run_id).metrics.items()
    with refusing_metrics(home, "recall_suite_300_mean"):
        command = ["evaluate", trial.run_id, "--data", str(suite), "--context-length", "300"]
        assert run([*command, "--home", str(home)]) == 2
    told = capsys.readouterr()
    assert "swde" in told.out and "nq" in told.out, "the figures are not lost"
    assert "the MLflow store" in told.err and "Traceback" not in told.err
    left = find_run(result.tracking_uri, trial.run_id).metrics
    assert not any(name.startswith("recall_suite_300") for name in left), "all of them or none"
    assert rerun(trial.run_id, home=home).verdict is Verdict.IDENTICAL
    (kept,) = (home / "data").glob("*/tokenizer.json")
    kept.unlink()
    with pytest.raises(UsageError, match=r"its tokenizer was trained on its text.* as --tokenizer"):
        evaluate(trial.run_id, suite, home=home)
    shutil.rmtree(home / "data")
    with pytest.raises(UsageError, match=r"its tokenizer was trained on its text.* as --tokenizer"):
        evaluate(trial.run_id, suite, home=home)
    with pytest.raises(SpecError, match=r"'\*.txt': there is no such file below .*elsewhere"):
        rerun(trial.run_id, home=home)
