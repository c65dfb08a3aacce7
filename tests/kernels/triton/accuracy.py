"""How close a kernel must come: at most twice the error that the reference makes in the same precision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., tuple[Tensor, ...]]


def assert_accurate(found: Tensor, rough: Tensor, exact: Tensor, what: str = "output") -> None:
    """`exact` is the reference in float64, `rough` the reference in the precision of `found`.

    Both the norm of the error and its largest entry may be at most twice the reference's. The reference may
    be exact by chance (one product, no sum): then what remains are two roundings to the type, of what is kept
    for the backward pass and of the result, half a unit in the last place of norm and largest entry each.
    """
    assert found.shape == exact.shape, f"{what} has shape {tuple(found.shape)}, not {tuple(exact.shape)}"
    assert found.dtype == rough.dtype, f"{what} is {found.dtype}, not {rough.dtype}"
    if found.numel() == 0:
        return
    ulp = torch.finfo(found.dtype).eps
    wide, far, truth = (tensor.detach().double().cpu() for tensor in (found, rough, exact))
    assert wide.isfinite().all(), f"{what} has {int((~wide.isfinite()).sum())} entries that are not finite"
    for measure in (torch.linalg.vector_norm, lambda x: x.abs().max()):
        error, allowed, size = (float(measure(x)) for x in (wide - truth, far - truth, truth))
        assert error <= max(2 * allowed, ulp * size), (
            f"{what}: error {error:.3g}, the reference's is {allowed:.3g}, one ulp {ulp * size:.3g}"
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
) -> None:
    """Hold outputs and gradients of `kernel` to `assert_accurate`. The inputs are on the CPU, in the kernel's type.

    `kernel` gets them on `device`; `reference` as they are and in float64. names: of the outputs, then the inputs.
    """

    def moved(change: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        return [None if given is None else change(given) for given in inputs]

    def widen(given: Tensor) -> Tensor:
        return given.double() if given.is_floating_point() else given

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        outputs = reference(*inputs)
    weights = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    found: list[Tensor | None]
    rough: list[Tensor | None]
    exact: list[Tensor | None]
    if backward:
        found = gradients(kernel, moved(lambda given: given.to(device)), weights)
        rough = gradients(reference, inputs, weights)
        exact = gradients(reference, moved(widen), weights)
    else:
        with torch.no_grad():
            found = list(kernel(*moved(lambda given: given.to(device))))
            rough, exact = list(reference(*inputs)), list(reference(*moved(widen)))
    labels = [*names, *(f"result {place}" for place in range(len(names), len(found)))][: len(found)]
    for label, have, near, truth in zip(labels, found, rough, exact, strict=True):
        assert (have is None) == (truth is None), (
            f"{label}: {'no' if have is None else 'a needless'} gradient"
        )
        if have is not None and near is not None and truth is not None:
            assert_accurate(have, near, truth, label)


def check_operator(operator: Any, *args: Any, **kwargs: Any) -> None:
    """`torch.library.opcheck`: schema, fake implementation, autograd registration, and both under compile."""
    torch.library.opcheck(operator, args, kwargs)
