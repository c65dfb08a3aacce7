import pytest
import torch
from torch import Tensor

from recallfront.kernels.feature_attention.operator import feature_attention, feature_attention_step


def draw(time: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k = torch.rand(2, 2, time, 2, 5, dtype=torch.float64).unbind(0)
    return q, k, torch.randn(2, time, 2, 3, dtype=torch.float64), torch.rand(2, 2, 5, 4, dtype=torch.float64)


@pytest.mark.parametrize("time", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_its_definition(time: int, padded: bool) -> None:
    q, k, v, state = draw(time)
    padding = torch.arange(time) >= torch.tensor([[time], [time // 2]]) if padded else None
    expected, last = feature_attention(q, k, v, initial_state=state, padding=padding, backend="reference")
    found, found_last = feature_attention(q, k, v, initial_state=state, padding=padding)
    torch.testing.assert_close(found[0], expected[0], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(found[1, : time // 2], expected[1, : time // 2], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(found_last, last, atol=1e-11, rtol=1e-11)


def test_steps_equal_the_whole() -> None:
    q, k, v, state = draw(9)
    expected, last = feature_attention(q, k, v, initial_state=state, backend="reference")
    for time in range(9):
        o, state = feature_attention_step(q[:, time], k[:, time], v[:, time], state)
        torch.testing.assert_close(o, expected[:, time], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(state, last, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("time", [5, 70])
def test_gradients(time: int) -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(time)]

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return feature_attention(q, k, v, initial_state=state)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_bad_arguments() -> None:
    q, k, v, state = draw(4)
    with pytest.raises(ValueError, match="k has shape"):
        feature_attention(q, k[..., :3], v)
    with pytest.raises(ValueError, match="initial_state has shape"):
        feature_attention(q, k, v, initial_state=state[..., :3])
    with pytest.raises(ValueError, match="padding has shape"):
        feature_attention(q, k, v, padding=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no size may be 0"):
        feature_attention(q[:, :0], k[:, :0], v[:, :0])
    with pytest.raises(ValueError, match="no Triton kernel"):
        feature_attention(q, k, v, backend="triton")
