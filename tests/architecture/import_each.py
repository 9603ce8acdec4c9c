"""Imports each module named on standard input in a process of its own, and prints what went wrong, or what came with it.

A fork is a fresh interpreter as far as the project's modules go: none is imported before it. One JSON document per line:
`{"module": …, "error": … or null, "imported": [top-level packages]}`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import warnings


def imported() -> set[str]:
    """Top-level packages that are imported now."""
    return {name.partition(".")[0] for name in sys.modules}


def import_one(module: str) -> None:
    """Import it with warnings as errors, and print the outcome."""
    error = None
    before = imported()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            importlib.import_module(module)
    except BaseException as caught:  # noqa: BLE001  # whatever it is, it is the answer
        error = f"{type(caught).__name__}: {caught}"
    answer = {"module": module, "error": error, "imported": sorted(imported() - before)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """One child for each module, as many at a time as there are processors."""
    gc.disable()
    children = 0
    for line in sys.stdin.read().split():
        if children == os.cpu_count():
            os.wait()
            children -= 1
        if os.fork() == 0:
            import_one(line)
            os._exit(0)
        children += 1
    for _ in range(children):
        os.wait()


if __name__ == "__main__":
    for preloaded in sys.argv[1:]:
        importlib.import_module(preloaded)
    main()
