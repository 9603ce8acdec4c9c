"""Ends a server when the process that started it is gone, where the kernel has no signal for that (macOS).

Run as a plain script: `python -I -S guard.py PID SIGNAL`, with a pipe from the parent as stdin. The parent never
writes: the pipe's end means the parent's end. A parent that stops its server ends the guard first, so that a reused
process id is never signalled. Tested on Linux (where it serves servers not started from the main thread); macOS is
untested.
"""

import contextlib
import os
import sys


def main(argv: list[str]) -> None:
    """Wait for the end of stdin, then send the signal."""
    pid, signal_number = int(argv[1]), int(argv[2])
    while os.read(0, 1):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


if __name__ == "__main__":
    main(sys.argv)
