"""Memory that the C library keeps for itself."""

import contextlib
import ctypes
import gc


def give_back_memory() -> None:
    """Hand memory that was freed back to the system, where the C library can (glibc).

    Loading a network frees more than the weights take, in pieces that are otherwise kept and seldom
    fit what comes next.
    """
    gc.collect()  # networks refer to themselves
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
