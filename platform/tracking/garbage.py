"""How often a process that reads sweeps looks for garbage."""

import gc
from typing import Final

_SELDOM: Final = (50_000, 25, 100)  # objects, and collections of the generation before


def collect_seldom() -> None:
    """Have Python look for cycles more seldom than after 700 objects: those of a sweep that is read all stay.

    Of 10,000 trials, which are millions of objects, reading takes two thirds of the time.
    """
    gc.set_threshold(*_SELDOM)
