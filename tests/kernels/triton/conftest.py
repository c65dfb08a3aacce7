"""Every test here runs its kernels on the GPU where there is one, else under Triton's interpreter."""

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.triton.interpreter import interpreted
from tests.kernels.triton.poison import poisoned


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """The device of the kernels; what `torch.empty` returns is full of NaN."""
    with poisoned():
        if torch.cuda.is_available():
            yield torch.device("cuda")
        else:
            with interpreted():
                yield torch.device("cpu")
