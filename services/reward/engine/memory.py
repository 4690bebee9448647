"""Keeping the CPU's memory warm between layers."""

from __future__ import annotations

import ctypes
import functools

# From malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest the library takes for the second; what one layer of a 2,048-token call allocates is below it.
_KEEP, _LARGEST = 512 << 20, 32 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library not to give freed tensors back at once; False where it cannot be told.

    Each layer frees and allocates the same few megabytes. By default they go back to the kernel in between
    and fault in again page by page: 33,000 faults a call of 2,048 tokens. At most 512 MB are kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEEP)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST))


def give_back() -> None:
    """Return freed memory to the kernel after all: what did not fit must not keep others from fitting."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
