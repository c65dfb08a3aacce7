"""How a process that trains on a CPU keeps its memory."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_REUSED = 32 << 20  # bytes: larger tensors get pages of their own, the most that glibc allows
_KEPT = 256 << 20  # bytes that are free before any are handed back


def keep_freed_memory() -> None:
    """Reuse freed memory rather than hand it back and have it zeroed again, page by page; glibc only, else nothing.

    A training step frees as much as it takes, so this is about 4 % of it where layers are small.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _REUSED)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
