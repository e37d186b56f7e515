"""How the gateway's credentials and its clients' identities stand, for the status page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aoai_gateway.identity.renewal import Renewal
    from aoai_gateway.runtime.gateway import Gateway

SOON = timedelta(days=14)


def identities(gateway: Gateway, now: float) -> dict[str, list[dict[str, Any]]]:
    """Return the snapshot's member of this name. ``now``: monotonic seconds."""
    issuers = gateway.verifier.all() if gateway.verifier is not None else ()
    return {
        "credentials": [
            {
                **_state(renewal),
                "endpoints": endpoints,
                "seconds_left": None if renewal.seconds_left is None else round(renewal.seconds_left, 1),
            }
            for renewal, endpoints in gateway.credentials.all()
        ],
        "issuers": [_state(renewal) for renewal in issuers],
        "expiring": list(_expiring(gateway, datetime.fromtimestamp(now + gateway.unix_offset, UTC))),
    }


def _state(renewal: Renewal[Any]) -> dict[str, Any]:
    problem = f"{renewal.problem}. {renewal.remedy}" if renewal.problem else ""
    return {"name": renewal.name, "ok": renewal.value is not None, "problem": problem.rstrip(".")}


def _expiring(gateway: Gateway, now: datetime) -> Iterator[dict[str, Any]]:
    if gateway.written is None:
        return
    for what, end in gateway.written.expiring():
        if end <= now + SOON:
            yield {"what": what, "end": end.isoformat(), "days": (end - now).days}
