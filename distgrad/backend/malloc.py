"""glibc's allocator, told to keep what is freed: a training step allocates what the step before has freed.

By default the memory of large arrays goes back to the system when they are freed, and every page of the next one
is faulted in and cleared again. DISTGRAD_MALLOC=default leaves it at that; other C libraries are left alone.
"""

from __future__ import annotations

import ctypes

from ..config import config

__all__ = ["keep"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_NEVER = -1
# The most that glibc takes. What is larger comes from the system and goes back there: a data set, most of the time.
_LARGEST = 32 << 20


def keep() -> bool:
    """Have arrays up to 32 MiB cut from memory that this process keeps; whether that could be arranged.

    Raises:
        ValueError: DISTGRAD_MALLOC is neither 'keep' nor 'default'.
    """
    if config.malloc not in ("keep", "default"):
        raise ValueError(f"DISTGRAD_MALLOC={config.malloc!r} is neither 'keep' nor 'default'")
    if config.malloc == "default":
        return False
    try:
        process = ctypes.CDLL(None)
        process.gnu_get_libc_version  # noqa: B018  others have no such thing, or mallopt with another meaning
        mallopt = process.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _NEVER))
