"""One thread: the operations are small, and the machine is shared."""

import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)
