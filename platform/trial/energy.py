"""Energy of a GPU, as NVIDIA's management library tells it; other devices tell none.

pynvml is imported where it is first used: a machine without a GPU need not have it.
"""

from collections.abc import Callable, Sequence

import torch

from recallfront.platform.results.status import Status, TrialFailure


class NoEnergy(TrialFailure):
    """The sweep compares by energy, and this GPU tells none: another one may, or this one in a later run."""

    status = Status.LOST


def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """What reads the joules that a device has used since its driver was loaded; None if it does not tell.

    A GPU tells if the package nvidia-ml-py is installed and the GPU counts: those before Volta, and parts of one (MIG),
    do not.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def require_energy(device: torch.device, objectives: Sequence[str]) -> None:
    """Raise NoEnergy unless the device tells its energy; without objectives of it, any device will do."""
    if objectives and energy_counter(device) is None:
        raise NoEnergy(
            f"objectives: metric={objectives[0]!r}: this GPU does not report its energy (recallfront[gpu] is not "
            "installed, or it is a part of a GPU)"
        )
