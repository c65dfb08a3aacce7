"""Taylor and windowed attention, beside PyTorch's own, flex_attention and flash-linear-attention.

flash-linear-attention is imported where it is first used, since few machines have it.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from recallfront.benchmarks.kernels.cases import DEFINITION, Case, Peer, Setting, both_modes
from recallfront.benchmarks.kernels.targets import CUDNN, FLASH, FLEX, LINEAR
from recallfront.kernels.taylor_attention.operator import taylor_attention
from recallfront.kernels.window_attention.operator import window_attention

_FEATURES = 16


def suite(setting: Setting) -> Iterator[Case]:
    """All cases: Taylor, window."""
    for time in setting.sizes((2048, 8192, 16384), 40):
        yield from _taylor(setting, time)
    windows: tuple[int | None, ...] = (8, None) if setting.tiny else (64, 128, 1024, None)
    for window in windows:
        for biased in (False, True):
            yield from _window(setting, setting.size(8192, 40), window, biased)


def _attention(setting: Setting, backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Causal attention (B, H, T, D) by one of PyTorch's backends; on a CPU by the one that is there."""
    chosen = SDPBackend.MATH if setting.device.type == "cpu" else backend

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(chosen):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return run


def _taylor(setting: Setting, time: int) -> Iterator[Case]:
    batch, heads, width = setting.size(8, 1), setting.size(16, 2), setting.size(64, 16)

    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        q, k = (setting.normal(batch, time, heads, _FEATURES, seed=seed) for seed in (0, 1))
        return q, k, setting.normal(batch, time, heads, width, seed=2)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return taylor_attention(q, k, v, backend="triton")

    def peers() -> Mapping[str, Peer]:
        softmax = [setting.normal(batch, time, heads, width, seed=seed) for seed in (3, 4, 5)]
        found = {FLASH: Peer(_attention(setting, SDPBackend.FLASH_ATTENTION), turned=True, inputs=softmax)}
        if setting.tiny:
            found[DEFINITION] = Peer(lambda q, k, v: taylor_attention(q, k, v, backend="reference"))
        if find_spec("fla") is not None and setting.device.type == "cuda":
            from fla.ops.based import fused_chunk_based, parallel_based

            found |= {
                f"{LINEAR}, parallel": Peer(parallel_based),
                f"{LINEAR}, chunks": Peer(fused_chunk_based),
            }
        return found

    shape = f"{batch}x{time}x{heads} f {_FEATURES} v {width}"
    each = 2 * batch * time * heads
    once = 2 * _FEATURES + 2 * width  # q, k, v and o; back all of them with o's gradient, and three gradients
    moved = each * once, each * (2 * once + 2 * _FEATURES + width)
    yield from both_modes("taylor_attention", shape, ours, inputs, peers, moved=moved, apart=(FLASH,))


def _window(setting: Setting, time: int, window: int | None, biased: bool) -> Iterator[Case]:
    batch, heads, width = setting.size(4, 1), setting.size(16, 2), setting.size(128, 16)
    slopes = tuple(2.0 ** (-8 * (head + 1) / heads) for head in range(heads)) if biased else None

    def inputs() -> list[Tensor]:
        return [setting.normal(batch, time, heads, width, seed=seed) for seed in range(3)]

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, window_size=window, alibi_slopes=slopes, backend="triton")

    def peers() -> Mapping[str, Peer]:
        found = {FLEX: Peer(_flex(setting, time, window, slopes), turned=True)}
        if window is None:
            found[flash] = Peer(_attention(setting, SDPBackend.FLASH_ATTENTION), turned=True)
            found[cudnn] = Peer(_attention(setting, SDPBackend.CUDNN_ATTENTION), turned=True)
        return found

    # neither knows ALiBi: they have less to do
    flash, cudnn = (f"{name}, no ALiBi" if biased else name for name in (FLASH, CUDNN))
    seen = min(window or time, time)
    work = 4 * width * batch * heads * (seen * (seen + 1) / 2 + (time - seen) * seen)
    shape = f"{batch}x{time}x{heads}x{width} {f'window {window}' if window else 'full'}"
    yield from both_modes(
        "window_attention",
        shape + (" ALiBi" if biased else ""),
        ours,
        inputs,
        peers,
        operations=(work, 3.5 * work),
        apart=(flash, cudnn) if biased else (),
        seconds=25,
    )


def _flex(
    setting: Setting, time: int, window: int | None, slopes: tuple[float, ...] | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """flex_attention with its block mask made beforehand and the window a constant."""
    by_head = None if slopes is None else torch.tensor(slopes, device=setting.device)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q >= k if window is None else (q >= k) & (q - k < window)

    def bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert by_head is not None
        return score - by_head[h] * (q - k)

    mask = create_block_mask(visible, None, None, time, time, device=str(setting.device))
    attend = flex_attention if setting.tiny else torch.compile(flex_attention)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = attend(q, k, v, score_mod=None if by_head is None else bias, block_mask=mask)
        return out

    return run
