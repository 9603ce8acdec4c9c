"""The memory allocator of a server: one that was built with the C library's runs with jemalloc where there is one.

A server that runs scripts makes and frees small strings, and spends a quarter of its time in the C library's allocator. With
jemalloc, which distributions build it with, the same work takes a fifth less.
"""

import os
import sys
from ctypes.util import find_library


def preloading(allocator: str) -> dict[str, str]:
    """Variables with which a server built with `allocator` (as its banner says) is started; none where nothing is better.

    What the caller preloads stays, and comes first.
    """
    if sys.platform != "linux" or allocator != "libc":
        return {}
    library = find_library("jemalloc")
    if library is None:
        return {}
    return {"LD_PRELOAD": " ".join(filter(None, (os.environ.get("LD_PRELOAD"), library)))}
