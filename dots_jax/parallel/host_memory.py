"""How this process keeps memory."""

import ctypes
import sys

# glibc, <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """On a CPU, whose arrays live in malloc's memory: keep what a step frees for the next step.

    By default glibc gives large freed buffers back to the kernel, and every step faults its pages in again: a fifth of
    the processor time of a step of gin/tiny.gin. Call it before the first array. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20)):
        mallopt(option, value)
