"""What would have happened under other configurations, beside what did: for all calls, and for each client.

Its document: ``calls``, ``left_out`` (records that cannot be sent again), ``recorded`` and ``candidates`` (a
list): each has ``name``, ``totals``, ``clients`` (by name) and, of candidates, ``same`` (the share of calls
that end in the same way at the same backend), ``gains`` and ``loses`` (clients of which more, or fewer, calls
are served than recorded; the difference) and ``unknown_clients`` (calls of clients that it does not have).
*Totals*, and each client, have ``calls``, ``served``, ``refused`` (by cause), ``waited`` (calls that were
held back for at least 50 ms), ``waited_seconds`` (all together), ``spilled``, ``backends`` (calls served, by
backend) and ``cost``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.virtual import Outcomes, VirtualGateway

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aoai_gateway.analysis.recorded import Recording
    from aoai_gateway.config.models import Config

WORTH_TELLING = 0.05
"""Seconds of waiting from which on a call counts as one that waited."""

RECORDED = "recorded"


@dataclass(slots=True)
class Tally:
    """What calls came to."""

    calls: int = 0
    served: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    waited_seconds: float = 0.0
    spilled: int = 0
    backends: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    priced: int = 0

    def add(self, outcome: Outcomes) -> None:
        """Count a call."""
        self.calls += 1
        if outcome.decision.end == "served":
            self.served += 1
            self.spilled += outcome.spilled
            self.backends[outcome.decision.backend] += 1
        else:
            self.refused[outcome.decision.end] += 1
        if outcome.waited >= WORTH_TELLING:
            self.waited += 1
            self.waited_seconds += outcome.waited
        if outcome.cost is not None:
            self.cost += outcome.cost
            self.priced += 1

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "calls": self.calls,
            "served": self.served,
            "refused": dict(self.refused.most_common()),
            "waited": self.waited,
            "waited_seconds": round(self.waited_seconds, 3),
            "spilled": self.spilled,
            "backends": dict(self.backends.most_common()),
            "cost": round(self.cost, 6) if self.priced else None,
        }


def backtest(
    recording: Recording,
    candidates: Mapping[str, Config],
    *,
    seed: int = 1,
    progress: Callable[[str, int], None] = lambda _, __: None,
) -> dict[str, Any]:
    """Lead the recording through each candidate. ``progress`` is told its name and a call's number."""
    recorded = _tallied(
        Outcomes(call, call.decision, call.waited, call.spilled, call.cost) for call in recording.calls
    )
    before = recorded["clients"]
    found = []
    for name, config in candidates.items():
        gateway = VirtualGateway(config, recording, seed=seed)
        outcomes = gateway.run(partial(progress, name))
        made = _tallied(outcomes)
        same = sum(outcome.decision == outcome.call.decision for outcome in outcomes)
        more = {each: made["clients"][each]["served"] - before[each]["served"] for each in before}
        found.append(
            {
                "name": name,
                "same": round(same / len(outcomes), 4) if outcomes else None,
                "gains": {each: n for each, n in more.items() if n > 0},
                "loses": {each: n for each, n in more.items() if n < 0},
                "unknown_clients": gateway.unknown_clients,
                **made,
            }
        )
    return {
        "calls": len(recording.calls),
        "left_out": recording.left_out,
        "recorded": {"name": RECORDED, **recorded},
        "candidates": found,
    }


def _tallied(outcomes: Iterable[Outcomes]) -> dict[str, Any]:
    totals, clients = Tally(), dict[str, Tally]()
    for outcome in outcomes:
        totals.add(outcome)
        tally = clients.get(outcome.call.client)
        if tally is None:
            tally = clients[outcome.call.client] = Tally()
        tally.add(outcome)
    return {
        "totals": totals.document(),
        "clients": {name: clients[name].document() for name in sorted(clients)},
    }
