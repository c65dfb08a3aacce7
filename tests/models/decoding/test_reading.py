"""Long rows in pieces: the answers are those of the whole rows, and nothing grows with the length but the state."""

import subprocess
import sys

import pytest
import torch

from recallfront.models import build, parse_config
from recallfront.models.configs import architectures
from recallfront.models.decoding.reading import answer_in_pieces
from tests.models.cases import CASES, case_config, draw_tokens, make_model
from tests.models.largest import Largest

RECURRENT = (
    "hawk",
    "griffin",
    "based",
    "mamba2",
    "gated_deltanet",
    "gla",
    "rwkv7",
    "hgrn2",
    "linear",
    "window",
)


@pytest.mark.parametrize("piece", [4, 23, 64])
@pytest.mark.parametrize("name", sorted(set(CASES) & architectures().keys()))
def test_answers_are_those_of_whole_rows(name: str, piece: int) -> None:
    model, tokens = make_model(case_config(name)).eval(), draw_tokens(2, 23)
    at, answers = torch.tensor([40, 0, 3, 22, 23, 45, 4]), torch.tensor([1, 16, 0, 4, 2, 9, 9])
    with torch.no_grad():
        whole = model(tokens, at=at, answers=answers)
    found = answer_in_pieces(model, tokens, at, answers, piece=piece)
    torch.testing.assert_close(found.losses, whole.losses, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.loss, whole.loss, atol=1e-9, rtol=1e-9)
    assert torch.equal(found.predicted, whole.predicted)


@pytest.mark.parametrize("name", RECURRENT)
def test_no_tensor_grows_with_the_length(name: str) -> None:
    model = build(parse_config({"architecture": name, "vocab_size": 17, "width": 16, "num_heads": 2})).eval()
    largest = []
    for length in (256, 1024):
        tokens = draw_tokens(1, length)
        with Largest() as seen:
            answer_in_pieces(model, tokens, torch.tensor([length - 1]), torch.tensor([3]), piece=128)
        largest.append(seen.numbers)
    assert largest[0] == largest[1]


@pytest.mark.slow
def test_memory_is_flat_up_to_16384_tokens() -> None:
    """The resident size of a process that evaluates 8 rows of 1,024 tokens, then of 16,384.

    Of the long rows a single tensor of the model's width is 32 MiB, and a layer holds several at once.
    """
    program = """
import torch
from pathlib import Path
from recallfront.models import build, parse_config
from recallfront.models.decoding.reading import answer_in_pieces
torch.set_num_threads(1)
model = build(parse_config({"architecture": "hawk", "vocab_size": 64, "width": 64})).eval()
for length in (1024, 16384):
    tokens = torch.randint(64, (8, length), generator=torch.Generator().manual_seed(0))
    answer_in_pieces(model, tokens, torch.arange(7, 8 * length, 64), torch.ones(length // 8, dtype=torch.long))
    # of this program alone: a process's `ru_maxrss` is at least what the process had that has started it
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak.split()[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before <= 64
