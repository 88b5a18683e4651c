"""Memory that one training step frees and the next wants again."""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


@cache
def keep_freed_memory() -> None:
    """Make this process keep large blocks that it frees, instead of returning them to the operating system.

    Otherwise every step maps its gradients and products anew, and each of their pages costs a fault on first touch: a
    tenth of a TopK step, more of a variant that sees all pre-activations. Only glibc has the setting; elsewhere this
    does nothing. It lasts as long as the process, whose memory then stays at its highest.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_MMAP_MAX, 0)
