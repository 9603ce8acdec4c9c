"""The function of the how-to page that checks signatures does check them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tailrace.gateway.webhooks import signature

PAGE = Path(__file__).parents[2] / "docs" / "howto.md"


def documented() -> Callable[[str, str, bytes], bool]:
    """The function as it stands on the page."""
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def verify" in code]
    names: dict[str, Any] = {}
    exec(code, names)  # our own page
    found: Callable[[str, str, bytes], bool] = names["verify"]
    return found


def test_what_is_documented_takes_what_is_sent() -> None:
    """And nothing else: another body, another secret, or an old request."""
    verify, now = documented(), int(time.time())
    header = signature("the secret", b'{"id": "n1"}', now)
    assert verify("the secret", header, b'{"id": "n1"}')
    assert not verify("the secret", header, b'{"id": "n2"}')
    assert not verify("another", header, b'{"id": "n1"}')
    assert not verify("the secret", signature("the secret", b"{}", now - 3600), b"{}")
