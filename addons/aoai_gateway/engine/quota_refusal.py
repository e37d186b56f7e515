"""A refusal by a quota: as an answer, as data for the record, in words for a dry run's headers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aoai_gateway.engine.end_users import ACCOUNT
from aoai_gateway.quota.effective_policy import PolicyAction
from aoai_gateway.quota.quotas import UNIT, Limit
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call
    from aoai_gateway.quota.quotas import Decision, Reservation, Standing


CODE = "budget_exceeded"
"""That of a refusal by a budget in money."""


def refusal(call: Call, reservation: Reservation, decision: Decision) -> errors.GatewayError:
    """Make the answer to a call that a quota does not let in."""
    standing = decision.refused_by
    if standing is not None and standing.in_money:
        return _budget_refusal(standing, decision.retry_after)
    text = f"Your quota of {limit_of(decision)} is used up."
    if standing is not None and standing.kind.counts_tokens and standing.remaining:
        text = (
            f"Your quota of {limit_of(decision)} has {standing.remaining:,} left, and the call may take "
            f"{reservation.tokens:,}, prompt and answer. Lower its max_tokens, or wait."
        )
    if call.waited >= 0.1:
        text += f" The call has waited for {call.waited:.1f} s."
    return errors.rate_limited(text, decision.retry_after)


def _budget_refusal(standing: Standing, retry_after: float) -> errors.GatewayError:
    """Make the answer to a call that a budget in money does not cover."""
    period = standing.kind.calendar
    left = standing.remaining / UNIT
    text = f"Your budget of {standing.limit / UNIT:,.2f} per {period} is used up."
    if left:
        text = (
            f"Your budget of {standing.limit / UNIT:,.2f} per {period} has {left:,.4f} left, and the call "
            "may cost more. Lower its max_tokens, or wait."
        )
    return errors.rate_limited(text, retry_after, code=CODE)


def note_refused(call: Call, refused: PolicyAction | None) -> None:
    """Note a quota's refusal. A call that waits asks again and again: of the same quota the newest counts."""
    if refused is None:
        return
    last = call.policy[-1] if call.policy else None
    if last is not None and last.action == "quota" and last.what == refused.what:
        call.policy = call.policy[:-1]
    call.policy += (refused,)


def refused_by(reservation: Reservation, decision: Decision, *, dry_run: bool) -> PolicyAction | None:
    """Return the refusal as data; None if no quota has refused."""
    standing = decision.refused_by
    if standing is None:
        return None
    seconds = decision.retry_after if math.isfinite(decision.retry_after) else None
    if standing.in_money:
        # In the currency of ``prices``.
        kind = standing.kind.value.replace("tokens", "cost")
        most, left, limit = (reservation.cost or 0) / UNIT, standing.remaining / UNIT, standing.limit / UNIT
        return PolicyAction("quota", kind, most, left, dry_run, limit=limit, seconds=seconds)
    asked = reservation.tokens if standing.kind.counts_tokens else reservation.requests
    return PolicyAction(
        "quota",
        standing.kind.value,
        asked,
        standing.remaining,
        dry_run,
        limit=standing.limit,
        deployment=standing.deployment,
        seconds=seconds,
    )


def limit_of(decision: Decision) -> str:
    """Name the limit that refused: ``5,000 tokens per minute for gpt-4o``."""
    standing = decision.refused_by
    return "nothing" if standing is None else _named(standing)


def excess(standing: Standing) -> str:
    """Say in a dry run what a call was over."""
    return CODE if standing.in_money else f"over {_named(standing)}"


def _named(standing: Standing) -> str:
    what = {
        Limit.TOKENS_PER_MINUTE: "tokens per minute",
        Limit.REQUESTS_PER_MINUTE: "requests per minute",
        Limit.TOKENS_PER_DAY: "tokens per day",
        Limit.TOKENS_PER_MONTH: "tokens per month",
    }[standing.kind]
    where = f" for {standing.deployment}" if standing.deployment is not None else ""
    if standing.deployment is not None and standing.deployment.startswith(ACCOUNT):
        where = " per end user"
    return f"{standing.limit:,} {what}{where}"
