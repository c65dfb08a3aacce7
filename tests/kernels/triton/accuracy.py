"""How close a kernel must come: at most twice the error that the reference makes in the same precision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., tuple[Tensor, ...]]


def assert_accurate(
    found: Tensor, rough: Tensor, exact: Tensor, what: str = "output", *, ulps: float = 1.0
) -> None:
    """`exact` is the reference in float64, `rough` the reference in the precision of `found`.

    The norm of the error may be at most twice the reference's. A single wrong entry shows in it as well: the
    norms are a few units in the last place. The reference may be exact by chance (one product, no sum): then
    what remains are two roundings to the type, of what is kept for the backward pass and of the result, half
    a unit in the last place each. `ulps` is more for a result of many roundings that no sum evens out.
    """
    assert found.shape == exact.shape, f"{what} has shape {tuple(found.shape)}, not {tuple(exact.shape)}"
    assert found.dtype == rough.dtype, f"{what} is {found.dtype}, not {rough.dtype}"
    if found.numel() == 0:
        return
    ulp = torch.finfo(found.dtype).eps
    wide, far, truth = (tensor.detach().double().cpu() for tensor in (found, rough, exact))
    assert wide.isfinite().all(), f"{what} has {int((~wide.isfinite()).sum())} entries that are not finite"
    error, allowed, size = (float(x.norm()) for x in (wide - truth, far - truth, truth))
    assert error <= max(2 * allowed, ulps * ulp * size), (
        f"{what}: norm of the error {error:.3g}, the reference's is {allowed:.3g}, one ulp {ulp * size:.3g}"
    )


def gradients(run: Run, inputs: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Outputs of `run(*inputs)`, and the gradient of each input (None where it is None or an integer).

    weights: the gradient of every output, in its shape and precision.
    """
    leaves = [
        given.detach().clone().requires_grad_(given.is_floating_point()) if given is not None else None
        for given in inputs
    ]
    outputs = run(*leaves)
    pairs = [(out, w.to(out)) for w, out in zip(weights, outputs, strict=True) if out.requires_grad]
    torch.autograd.backward([out for out, _ in pairs], [w for _, w in pairs])
    return [*outputs, *(None if leaf is None else leaf.grad for leaf in leaves)]


def compare_with_reference(
    kernel: Run,
    reference: Run,
    inputs: Sequence[Tensor | None],
    *,
    device: torch.device,
    names: Sequence[str] = (),
    seed: int = 0,
    backward: bool = True,
    more: Sequence[Sequence[Tensor | None]] = (),
    ulps: float = 1.0,
) -> None:
    """Hold outputs and gradients of `kernel` to `assert_accurate`. The inputs are on the CPU, in the kernel's type.

    `kernel` gets them on `device`; `reference` as they are and in float64. names: of the outputs, then the
    inputs. more: other inputs of the same shapes, whose results are held to it together: the errors of a
    handful of numbers compare by luck. ulps: see `assert_accurate`.
    """
    draws = [
        _results(kernel, reference, given, device, seed + place, backward)
        for place, given in enumerate((inputs, *more))
    ]
    for place, results in enumerate(zip(*draws, strict=True)):
        label = names[place] if place < len(names) else f"result {place}"
        found, rough, exact = zip(*results, strict=True)
        assert (found[0] is None) == (exact[0] is None), f"{label}: a gradient too many or too few"
        if found[0] is not None:
            assert_accurate(torch.stack(found), torch.stack(rough), torch.stack(exact), label, ulps=ulps)


def _results(
    kernel: Run,
    reference: Run,
    inputs: Sequence[Tensor | None],
    device: torch.device,
    seed: int,
    backward: bool,
) -> list[tuple[Any, Any, Any]]:
    """Of each output, and in training of each input's gradient: the kernel's, the reference's, the exact one."""
    there = [None if given is None else given.to(device) for given in inputs]
    exact = [given.double() if given is not None and given.is_floating_point() else given for given in inputs]
    runs = ((kernel, there), (reference, inputs), (reference, exact))
    with torch.no_grad():
        outputs = reference(*inputs)
        if not backward:
            return list(zip(*(run(*given) for run, given in runs), strict=True))
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    return list(zip(*(gradients(run, given, weights) for run, given in runs), strict=True))


def check_operator(operator: Any, *args: Any, **kwargs: Any) -> None:
    """`torch.library.opcheck`: schema, fake implementation, autograd registration, and both under compile."""
    torch.library.opcheck(operator, args, kwargs)
