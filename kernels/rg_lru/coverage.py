"""What the Triton kernels of the real-gated linear recurrent unit cover: what the scan's do."""

from recallfront.kernels.linear_scan.coverage import COVERED, obstacle, step_obstacle

__all__ = ["COVERED", "obstacle", "step_obstacle"]
