"""Mixed precision by torch.autocast, which transformers' Trainer uses: products are narrow, sums and states are not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recallfront.kernels.common.chunks import normalised
from recallfront.models import LanguageModel
from tests.models.cases import case_config, draw_tokens, make_model

# every mixer once, and what mixes types in a way of its own
NAMES = [
    "attention-rope", "window-t5", "hawk", "griffin", "based", "based-language", "grouped", "linear-biases",
    "linear-hedgehog", "mamba2", "mamba2-groups", "deltanet", "gated_deltanet", "gla", "retnet", "retnet-conv", "kda",
    "rwkv7", "hgrn2", "hgrn2-bound",
]  # fmt: skip


# a loss averages the roundings of its logits; a gradient goes through some 100 of them, most of which cancel
def loss_and_gradients(
    model: LanguageModel, tokens: Tensor, dtype: torch.dtype | None
) -> tuple[float, Tensor]:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        loss = F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([x.flatten() for x in gradients])


@pytest.mark.parametrize("name", NAMES)
def test_differs_by_the_rounding_of_its_type(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 23)
    right, slope = loss_and_gradients(model, tokens, None)
    for dtype in (torch.bfloat16, torch.float16):
        unit = torch.finfo(dtype).eps
        found, gradients = loss_and_gradients(model, tokens, dtype)
        assert abs(found - right) < unit * right
        assert (gradients - slope).norm() < 16 * unit * slope.norm()


class LikeCuda(TorchFunctionMode):
    """What CUDA's autocast adds to the CPU's: powers, exponentials, norms and running sums are taken in float32."""

    wide = frozenset(
        "cumprod cumsum exp expm1 log log10 log1p log2 log_softmax logsumexp norm pow prod reciprocal rsqrt softmax "
        "softplus square sum vector_norm".split()
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.removeprefix("linalg_").rstrip("_")
        if name in self.wide and not func.__name__.endswith("_") and torch.is_autocast_enabled("cpu"):
            args = tuple(
                x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x
                for x in args
            )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*NAMES, "linear"])
def test_differs_by_the_rounding_of_its_type_on_a_gpu(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 23)
    right, _ = loss_and_gradients(model, tokens, None)
    for dtype in (torch.bfloat16, torch.float16):
        with LikeCuda():
            found, gradients = loss_and_gradients(model, tokens, dtype)
        assert abs(found - right) < torch.finfo(dtype).eps * right and gradients.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_padding_is_no_vector_of_length_one(dtype: torch.dtype) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [300.0, 400.0]], dtype=dtype, requires_grad=True)
    y = normalised(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y[[0, 2]], torch.tensor([[0.6, 0.8]] * 2, dtype=dtype))
    assert y[1].tolist() == [0.0, 0.0]
    (slope,) = torch.autograd.grad(y.float().sum(), x)
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_decoding_stays_in_the_type_of_the_weights(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 6)

    def decoded() -> list[Tensor]:
        logits, state = model.prefill(tokens, model.init_state(2))
        return [logits, model.step(tokens[:, 0], state)[0]]

    right = decoded()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(decoded(), right, strict=True))


@pytest.mark.parametrize("name", ["hgrn2-bound", "deltanet"])
def test_a_gradient_within_float16_is_an_error(name: str) -> None:
    """It would overflow, where it is not written out; within bfloat16 it is right but for rounding."""
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 23)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            loss = F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
            if dtype is torch.float16:
                with pytest.raises(RuntimeError, match="call it after the `with` block"):
                    loss.backward()
            else:
                loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
