"""Tasks of lm-eval on a model: what it is asked and what it answers; the package itself where it is installed."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from recallfront.models import build, parse_config, save
from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.harness import (
    _continuation,
    _figures,
    evaluate_harness,
    score_all,
    score_texts,
)
from recallfront.platform.evaluation.subject import Subject
from recallfront.sweeps.text.tokenizer import ByteTokenizer

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
CONFIG = {"architecture": "hawk", "vocab_size": 257, "width": 16}
TASK = """\
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""


def subject(**changes: int) -> Subject:
    return Subject(build(parse_config(CONFIG | changes)).eval(), ByteTokenizer(), None, None)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_likelihoods_are_those_of_each_pair_alone(batch_size: int) -> None:
    one = subject()
    texts = [("The capital is ", "Paris"), ("", "a"), ("x" * 40, "yz"), ("short", ""), ("q", "r" * 9)]
    pairs = [(one.encode(context), one.encode(wanted)) for context, wanted in texts]
    found = score_all(one, pairs, batch_size)
    for (context, wanted), (likelihood, greedy) in zip(pairs, found, strict=True):
        whole = [*(context or [256]), *wanted]
        with torch.no_grad():
            logits = one.model(torch.tensor([whole]))[0, len(whole) - len(wanted) - 1 : -1]
        expected = (
            F.log_softmax(logits, -1)[range(len(wanted)), wanted].sum() if wanted else torch.tensor(0.0)
        )
        assert likelihood == pytest.approx(float(expected), abs=1e-4)
        assert greedy == (logits.argmax(-1).tolist() == wanted)


def test_a_model_with_learned_positions_reads_the_end() -> None:
    one = subject(learned_positions=8)
    context, wanted = one.encode("a long context, of which it reads 8"), one.encode("end")
    ((likelihood, _),) = score_all(one, [(context, wanted)], 1)
    ((short, _),) = score_all(one, [(context[-6:], wanted)], 1)
    assert likelihood == pytest.approx(short, abs=1e-5)
    assert isinstance(_continuation(one, "x" * 30, {"max_gen_toks": 4}), str)


def test_a_long_text_is_scored_whole_in_windows_of_the_learned_positions() -> None:
    one = subject(learned_positions=8)
    text = one.encode("a text of 21 letters.")
    expected = 0.0
    # what is read, and what is scored after its last tokens
    for read, scored in (
        ([256, *text[:7]], text[:8]),
        (text[7:15], text[8:16]),
        (text[12:20], text[16:21]),
    ):
        with torch.no_grad():
            logits = one.model(torch.tensor([read]))[0, -len(scored) :]
        expected += float(F.log_softmax(logits, -1)[range(len(scored)), scored].sum())
    assert score_texts(one, [text, [], text[:3]], 2) == [
        pytest.approx(expected, abs=1e-4),
        0.0,
        pytest.approx(score_all(one, [([], text[:3])], 1)[0][0], abs=1e-5),
    ]


def test_a_text_without_a_limit_is_one_window() -> None:
    one = subject()
    text = one.encode("a text of 21 letters.")
    ((likelihood, _),) = score_all(one, [([], text)], 1)
    assert score_texts(one, [text], 1) == [pytest.approx(likelihood, abs=1e-5)]
    assert score_texts(one, [[]], 1) == [0.0]


def test_continuations_end_where_they_are_told() -> None:
    one = subject()
    whole = _continuation(one, "abc", {"max_gen_toks": 20})
    stop = whole[len(whole) // 2 :][:1]
    assert _continuation(one, "abc", {"max_gen_toks": 20, "until": [stop]}) == whole.partition(stop)[0]


def test_figures_are_the_numbers_without_their_errors() -> None:
    results = {
        "t": {
            "alias": "t",
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "em,strict": 1,
            "name": "t",
            "x,none": "N/A",
        }
    }
    assert _figures(results) == {"lm_eval/t/acc": 0.5, "lm_eval/t/em_strict": 1.0}


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"--suite lm-eval:arc: needs the package lm_eval: pip install"):
        evaluate_harness("anything", ["arc"])


@needs_harness
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_a_task_of_a_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    documents = [
        {"question": f"{n} or {n + 1}:", "choices": [" yes", " no"], "answer": n % 2} for n in range(6)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "capitals.yaml").write_text(TASK.replace("DATA", str(data)))
    folder = save(build(parse_config(CONFIG)), tmp_path / "model")
    found = evaluate_harness(str(folder), ["capitals"], data=tmp_path / "tasks", tokenizer="bytes")
    one = subject()
    right = 0
    for document in documents:
        pairs = [(one.encode(str(document["question"])), one.encode(choice)) for choice in (" yes", " no")]
        scores = [likelihood for likelihood, _ in score_all(one, pairs, 2)]
        right += int(scores[1] > scores[0]) == document["answer"]
    assert found.metrics["lm_eval/capitals/acc"] == pytest.approx(right / 6)
    with pytest.raises(UsageError, match="lm-eval has no task nothing"):
        evaluate_harness(str(folder), ["nothing"], tokenizer="bytes")
