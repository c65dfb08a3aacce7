"""What a model adds to prompts, and where it stops."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from recallfront.models import build, parse_config, save
from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.harness import score_all
from recallfront.platform.evaluation.subject import Subject, _of_trial, find_subject
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.text.tokenizer import ByteTokenizer, FastTokenizer

SPACE = "\u2581"


def spaced_tokenizer() -> FastTokenizer:
    """One that puts a space before every text and spells what it does not know in bytes, as Llama's does."""
    texts = ["</s>", "<unk>", SPACE, "<0x0A>", *"0123456789"]
    vocab = {text: number for number, text in enumerate(texts)}
    backend = Tokenizer(BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return FastTokenizer(backend, "</s>")


def test_a_stop_of_several_tokens_stops_at_none_of_them() -> None:
    words = spaced_tokenizer()
    config = parse_config({"architecture": "hawk", "vocab_size": words.size, "width": 16})
    one = Subject(build(config, seed=0).eval(), words, None, None)
    assert one.encode("\n") == [2, 3]
    # a model whose embeddings are tied says the last token again
    prompt = one.encode("5 ")
    (whole,) = one.continued([prompt], 12)
    assert whole.count(" ") > 2
    assert one.continued([prompt], 12, stop="\n") == [whole]


def test_a_stop_of_one_token_ends_the_text() -> None:
    config = parse_config({"architecture": "hawk", "vocab_size": 257, "width": 16})
    one = Subject(build(config, seed=0).eval(), ByteTokenizer(), None, None)
    (whole,) = one.continued([one.encode("abc")], 20)
    (stopped,) = one.continued([one.encode("abc")], 20, stop=whole[8])
    assert len(stopped) < len(whole) and stopped.partition(whole[8])[0] == whole.partition(whole[8])[0]


def folder_without_an_end(folder: Path) -> tuple[Path, Path]:
    """A model, and a tokenizer that does not say which token ends a text."""
    vocab = {text: number for number, text in enumerate(["<done>", "<unk>", *"0123456789"])}
    (folder / "words").mkdir()
    Tokenizer(BPE(vocab, [], unk_token="<unk>")).save(str(folder / "words" / "tokenizer.json"))
    config = parse_config({"architecture": "hawk", "vocab_size": len(vocab), "width": 16})
    return save(build(config, seed=0), folder / "model"), folder / "words"


def test_the_end_of_a_text_can_be_named(tmp_path: Path) -> None:
    model, words = folder_without_an_end(tmp_path)

    def found(tokenizer: Path | str | None, end: str | None) -> Subject:
        named = None if tokenizer is None else str(tokenizer)
        return find_subject(str(model), tokenizer=named, end_token=end, home=tmp_path, tracking_uri=None)

    assert found(words, "<done>").tokenizer.end == 0
    for tokenizer, end, told in (
        (
            words,
            None,
            f"--tokenizer={str(words)!r}: has no token for the end of a text; name one as --end-token",
        ),
        (words, "<eos>", f"--end-token='<eos>': is not a token of {str(words)!r}"),
        ("bytes", "<done>", "--end-token='<done>': --tokenizer='bytes' has its own"),
        (None, "<done>", "--end-token: is of a tokenizer that is named with --tokenizer"),
    ):
        with pytest.raises(UsageError) as refused:
            found(tokenizer, end)
        assert str(refused.value) == told


def test_a_hub_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    model, _ = folder_without_an_end(tmp_path)
    command = ["evaluate", str(model), "--suite", "ruler", "--tokenizer", "nobody/nothing"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-m", "recallfront", *command, "--home", str(tmp_path)],
        env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    told = f"there is no such folder or kept copy, and {address} does not answer"
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"--tokenizer='nobody/nothing': cannot be loaded: {told}" in done.stderr


def test_the_end_that_a_trial_names_is_that_of_its_tokenizer(tmp_path: Path) -> None:
    """Also in a home that has not the trial's data."""
    _, words = folder_without_an_end(tmp_path)
    task = {"name": "text", "source": {"files": "*.txt"}, "tokenizer": str(words), "end_token": "<done>"}
    config = {"model": {"architecture": "hawk", "vocab_size": 257}, "task": task}
    trial = TrialRecord("run", "key", Status.FINISHED, config, {})
    assert _of_trial(trial, "run", tmp_path / "home").end == 0
    with pytest.raises(UsageError, match=r"run run: task\.tokenizer=.* name one as task\.end_token"):
        _of_trial(replace(trial, config=config | {"task": task | {"end_token": None}}), "run", tmp_path)


def test_a_model_computes_where_it_is_told_to(tmp_path: Path) -> None:
    model, words = folder_without_an_end(tmp_path)
    one = find_subject(
        str(model), tokenizer=str(words), end_token="<done>", home=tmp_path, tracking_uri=None, device="cpu"
    )
    assert one.device.type == "cpu" and len(one.continued([[3, 4], [5]], 4)) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_what_a_cpu_does(tmp_path: Path) -> None:
    model, words = folder_without_an_end(tmp_path)
    on_cpu, on_gpu = (
        find_subject(
            str(model),
            tokenizer=str(words),
            end_token="<done>",
            home=tmp_path,
            tracking_uri=None,
            device=device,
        )
        for device in ("cpu", None)
    )
    assert on_gpu.device.type == "cuda"
    prompts = [[3, 4], [5]]
    assert on_gpu.continued(prompts, 20) == on_cpu.continued(prompts, 20)
    pairs = [([3, 4], [5]), ([], [6, 7])]
    for (gpu, is_greedy), (cpu, was_greedy) in zip(
        score_all(on_gpu, pairs, 2), score_all(on_cpu, pairs, 2), strict=True
    ):
        assert gpu == pytest.approx(cpu, abs=1e-4) and is_greedy == was_greedy
