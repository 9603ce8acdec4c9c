"""Settings of notices: what can't be used is said at once, and nothing secret is repeated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.core.errors import ConfigurationError
from tailrace.gateway.addresses import is_public
from tailrace.gateway.webhooks import Webhook
from tailrace.infra.config import load_settings
from tailrace.infra.notice_settings import NoticeSettings, check_here, notice_settings

SECRET = "sixteen-letters-or-more"
URL = "https://user:password@hooks.example.com/services/T000/secret-path"


def test_nothing_is_told_unless_it_is_configured() -> None:
    """No webhook, no command."""
    assert notice_settings({}) == NoticeSettings()


def test_what_is_configured_is_read(tmp_path: Path) -> None:
    """Several webhooks with blanks between; a command in words, as a shell would split it."""
    env = {
        "TAILRACE_WEBHOOKS": f"{URL}  http://127.0.0.1:9/hook {URL}",
        "TAILRACE_WEBHOOK_SECRET": SECRET,
        "TAILRACE_WEBHOOKS_PRIVATE": "1",
        "TAILRACE_NOTICE_COMMAND": f"{sys.executable} --to 'all of us'",
        "TAILRACE_NOTICE_QUIET_SECONDS": "60",
    }
    assert load_settings(data_dir=tmp_path, environ=env).notices == NoticeSettings(
        webhooks=(URL, "http://127.0.0.1:9/hook"),
        secret=SECRET,
        private=True,
        command=(sys.executable, "--to", "all of us"),
        quiet_seconds=60.0,
    )


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"TAILRACE_WEBHOOKS": URL}, "needs TAILRACE_WEBHOOK_SECRET"),
        ({"TAILRACE_WEBHOOKS": URL, "TAILRACE_WEBHOOK_SECRET": "short"}, "too short"),
        ({"TAILRACE_WEBHOOKS": "hooks.example.com", "TAILRACE_WEBHOOK_SECRET": SECRET}, "number 1 is not a URL"),
        ({"TAILRACE_WEBHOOKS": f"{URL} ftp://x/y", "TAILRACE_WEBHOOK_SECRET": SECRET}, "number 2 is not a URL"),
        ({"TAILRACE_WEBHOOKS": "https://host:99999/", "TAILRACE_WEBHOOK_SECRET": SECRET}, "number 1 is not a URL"),
        ({"TAILRACE_WEBHOOKS": "https://127.1/", "TAILRACE_WEBHOOK_SECRET": SECRET}, "number 1 is not a URL"),
        ({"TAILRACE_WEBHOOKS_PRIVATE": "perhaps"}, "1 or 0"),
        ({"TAILRACE_NOTICE_COMMAND": "true 'all"}, "can't be split"),
        ({"TAILRACE_NOTICE_COMMAND": "no-such-program-anywhere"}, "no program"),
        ({"TAILRACE_NOTICE_QUIET_SECONDS": "nan"}, "from 0 to 86400"),
        ({"TAILRACE_NOTICE_QUIET_SECONDS": "soon"}, "from 0 to 86400"),
    ],
)
def test_what_can_not_be_used_is_said(env: dict[str, str], problem: str) -> None:
    """With the variable; never with a URL or a secret."""
    with pytest.raises(ConfigurationError, match=problem) as raised:
        check_here(notice_settings(env))
    assert any(name in str(raised.value) for name in env)
    for secret in ("secret-path", "password", SECRET, "short "):
        assert secret not in str(raised.value)


def test_secrets_are_not_shown() -> None:
    """Neither by the settings, nor by the name of a webhook in the log and in the store."""
    found = notice_settings({"TAILRACE_WEBHOOKS": URL, "TAILRACE_WEBHOOK_SECRET": SECRET})
    webhook = Webhook(URL, SECRET, source="", namespace="")
    shown = f"{found!r} {webhook.title} {webhook.target}"
    assert "hooks.example.com" in webhook.title
    assert not any(secret in shown for secret in (SECRET, "secret-path", "password"))


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
        ),
        *("255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff0e::1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "::7f00:1", "2002:7f00:1::", "not-an-address", ""),
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    """Private, loopback, link-local, multicast, reserved; and IPv6 addresses that stand for such ones."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """However they are spelled."""
    assert is_public(address)


def test_a_watchdog_without_webhooks_does_without_aiohttp() -> None:
    """It costs memory in a process that may run on every machine."""
    code = (
        "import sys, asyncio\n"
        "from tailrace.infra.config import Settings\n"
        "import tailrace.infra.processes.watchdog\n"
        "from tailrace.infra.notices import senders\n"
        "from tailrace.core.store.memory import MemoryBackend\n"
        "async def main():\n"
        "    async with senders(Settings(), MemoryBackend().store()) as found:\n"
        "        assert found == []\n"
        "asyncio.run(main())\n"
        "sys.exit('aiohttp' in sys.modules or 'tailrace.agents.workspace' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
