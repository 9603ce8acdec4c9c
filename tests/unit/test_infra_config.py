"""Settings out of the environment."""

from __future__ import annotations

import pytest

from tailrace.core.errors import ConfigurationError
from tailrace.infra.config import load_settings


def test_what_is_kept_is_as_documented() -> None:
    """Ten thousand events of each partition, and a run for a week."""
    settings = load_settings(environ={}, follow_up=False)
    assert (settings.log_tail_events, settings.run_days) == (10_000, 7.0)
    chosen = {"TAILRACE_LOG_TAIL": "0", "TAILRACE_RUN_DAYS": "0.5"}
    settings = load_settings(environ=chosen, follow_up=False)
    assert (settings.log_tail_events, settings.run_days) == (0, 0.5)


@pytest.mark.parametrize("setting", ["TAILRACE_LOG_TAIL", "TAILRACE_RUN_DAYS"])
@pytest.mark.parametrize("value", ["-1", "many", "nan", "inf", "1e30"])
def test_a_number_that_is_none_is_refused(setting: str, value: str) -> None:
    """With the setting and what it may be."""
    with pytest.raises(ConfigurationError, match=f"{setting} '{value}': a number from 0 to"):
        load_settings(environ={setting: value}, follow_up=False)


@pytest.mark.parametrize("value", ["0", "257", "-1", "2.0", "\u00b2", "9" * 5000])
def test_partitions_that_cannot_be_are_refused(value: str) -> None:
    """Also what only looks like a number."""
    with pytest.raises(ConfigurationError, match="a number from 1 to 256"):
        load_settings(environ={"TAILRACE_PARTITIONS": value}, follow_up=False)
