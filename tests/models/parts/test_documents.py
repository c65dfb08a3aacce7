"""Packed documents of unlike lengths cost what their tokens cost."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from recallfront.models.parts.state import Layout
from tests.models.cases import case_config, draw_tokens, make_model


def ragged(rows: int, time: int, long: int) -> Tensor:
    """Positions (B, T) of documents of 4 to 19 tokens, but for one of `long`."""
    generator = torch.Generator().manual_seed(0)
    lengths = [long]
    while sum(lengths) < rows * time:
        lengths.append(int(torch.randint(4, 20, (1,), generator=generator)))
    flat = torch.cat([torch.arange(length) for length in lengths])[: rows * time]
    return flat.view(rows, time)


def kept_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, which runs as well."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()
    out.sum().backward()
    return sum(kept.values())


def test_an_operator_reads_few_tokens_more_than_there_are() -> None:
    layout, read = Layout(ragged(4, 2048, 1500), 1500), []
    x = torch.randn(4, 2048, 2, dtype=torch.float64, requires_grad=True)

    def run(rows: Tensor) -> Tensor:
        read.append(rows.shape[0] * rows.shape[1])
        return rows.cumsum(1)

    found = layout.by_document(run, x)
    (slope,) = torch.autograd.grad(found.square().sum(), x)
    assert sum(read) < 1.5 * 4 * 2048
    assert layout.starts is not None
    for row, starts in enumerate(layout.starts):
        first = starts[1:].nonzero()[:, 0] + 1
        for begin, end in pairwise([0, *first.tolist(), 2048]):
            expected = x[row, begin:end].detach().cumsum(0)
            torch.testing.assert_close(found[row, begin:end], expected, atol=1e-12, rtol=1e-12)
            expected = (2 * expected).flip(0).cumsum(0).flip(0)
            torch.testing.assert_close(slope[row, begin:end], expected, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["mamba2", "gated_deltanet", "hgrn2", "rwkv7", "grouped", "linear-augmented"]
)
def test_packed_documents_keep_about_as_much_as_one(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 512)
    plain = kept_bytes(lambda: model(tokens))
    assert kept_bytes(lambda: model(tokens, ragged(2, 512, 400))) < 1.5 * plain
