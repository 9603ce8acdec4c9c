"""Notices as they leave, for webhooks and commands alike: CloudEvents 1.0 in JSON.

`id` is the same at each attempt; `data` has the facts, times in RFC 3339.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from tailrace.core.clock import to_rfc3339
from tailrace.core.codec import to_json
from tailrace.core.notices import FailedRun, Incident, Notice, shortened
from tailrace.gateway.cloudevents import TYPE_PREFIX, CloudEvent, plain

#: Every text in a notice is bounded; so is the whole, whatever becomes of the parts.
LIMIT_BYTES: Final = 64 * 1024
SUBJECT_LIMIT: Final = 200


def notice_event(notice: Notice, source: str, namespace: str) -> CloudEvent:
    """A notice as an event of the installation `source`; its type is like `dev.tailrace.notice.incident-opened`."""
    about: dict[str, Any] = {}
    if notice.incident is not None:
        about = _incident(notice.incident, over=notice.kind == "incident-over")
    if notice.run is not None:
        about = _run(notice.run)
    return CloudEvent(
        specversion="1.0",
        id=notice.id,
        source=source,
        type=f"{TYPE_PREFIX}notice.{notice.kind}",
        subject=shortened(notice.subject, SUBJECT_LIMIT),
        time=to_rfc3339(notice.at) or "",
        datacontenttype="application/json",
        data={"kind": notice.kind, "namespace": namespace, **about},
    )


def notice_document(notice: Notice, source: str, namespace: str) -> bytes:
    """The same as JSON, of `LIMIT_BYTES` at most."""
    event = notice_event(notice, source, namespace)
    document = to_json(event)
    if len(document) <= LIMIT_BYTES:
        return document
    data = {"kind": notice.kind, "namespace": namespace, "truncated": True}
    return to_json(replace(event, data=data))


def _incident(incident: Incident, *, over: bool) -> dict[str, Any]:
    return {
        "incident": incident.id,
        "cause": incident.cause,
        "hop": incident.hop,
        "scope": incident.scope,
        "summary": incident.summary,
        "suggestion": incident.suggestion,
        "runs": incident.runs,
        "standing": incident.standing,
        "examples": list(incident.named),
        "returned": incident.returned,
        "opened_at": to_rfc3339(incident.opened_at),
        "over_at": to_rfc3339(incident.quiet_since) if over else None,
    }


def _run(run: FailedRun) -> dict[str, Any]:
    return {
        "workflow_id": run.workflow_id,
        "type": run.type,
        "stage": run.stage,
        "error": plain(run.error),
        "last_reason": run.last_reason,
        "not_compensated": list(run.not_compensated),
        "suggestion": f"tailrace show {run.workflow_id}",
    }
