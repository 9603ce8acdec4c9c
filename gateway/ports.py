"""What the gateway asks of others beyond the ports of the core and the read side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

#: Why a run does not move, worked out on demand; raises `NotFound`.
Diagnose = Callable[[str], Awaitable[msgspec.Struct]]
