"""`python -m tests.golden`: record the scenarios that have no recording yet. What was recorded is never written again."""

from __future__ import annotations

import msgspec

from tests.golden.recording import FOLDER, recorded
from tests.golden.scenarios import SCENARIOS


def main() -> None:
    """Write what is missing."""
    for name, play in SCENARIOS.items():
        path = FOLDER / f"{name}.json"
        if not path.exists():
            FOLDER.mkdir(exist_ok=True)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(recorded(play())), indent=1) + b"\n")
            print(f"recorded {path.name}")  # noqa: T201  # this is what it is for


if __name__ == "__main__":
    main()
