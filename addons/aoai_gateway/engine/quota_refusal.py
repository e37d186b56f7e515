"""A refusal by a quota: as an answer, as data for the record, in words for a dry run's headers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aoai_gateway.engine import money
from aoai_gateway.engine.call import PolicyAction
from aoai_gateway.engine.end_users import ACCOUNT
from aoai_gateway.quota.quotas import Limit
from aoai_gateway.wire import errors
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.engine.call import Call
    from aoai_gateway.quota.quotas import Decision, Reservation, Standing


def refusal(call: Call, reservation: Reservation, decision: Decision) -> GatewayError:
    """Make the answer to a call that a quota does not let in."""
    standing = decision.refused_by
    if standing is not None and standing.in_money:
        return money.refusal(decision)
    text = f"Your quota of {limit_of(decision)} is used up."
    if standing is not None and standing.kind.counts_tokens and standing.remaining:
        text = (
            f"Your quota of {limit_of(decision)} has {standing.remaining:,} left, and the call may take "
            f"{reservation.tokens:,}, prompt and answer. Lower its max_tokens, or wait."
        )
    if call.waited >= 0.1:
        text += f" The call has waited for {call.waited:.1f} s."
    return errors.rate_limited(text, decision.retry_after)


def note_refused(call: Call, refused: PolicyAction | None) -> None:
    """Note a quota's refusal. A call that waits asks again and again: of the same quota the newest counts."""
    if refused is None:
        return
    if refused.what == getattr(_last(call.policy), "what", None):
        call.policy = call.policy[:-1]
    call.policy += (refused,)


def _last(actions: Sequence[PolicyAction]) -> PolicyAction | None:
    """Return the last action, if it is a quota's."""
    return actions[-1] if actions and actions[-1].action == "quota" else None


def refused_by(reservation: Reservation, decision: Decision, *, dry_run: bool) -> PolicyAction | None:
    """Return the refusal as data; None if no quota has refused."""
    standing = decision.refused_by
    if standing is None:
        return None
    if standing.in_money:
        return money.refused_by(decision, reservation.cost or 0, dry_run=dry_run)
    asked = reservation.tokens if standing.kind.counts_tokens else reservation.requests
    return PolicyAction(
        "quota",
        standing.kind.value,
        asked,
        standing.remaining,
        dry_run,
        limit=standing.limit,
        deployment=standing.deployment,
        seconds=decision.retry_after if math.isfinite(decision.retry_after) else None,
    )


def limit_of(decision: Decision) -> str:
    """Name the limit that refused: ``5,000 tokens per minute for gpt-4o``."""
    standing = decision.refused_by
    return "nothing" if standing is None else _named(standing)


def excess(standing: Standing) -> str:
    """Say in a dry run what a call was over."""
    return money.CODE if standing.in_money else f"over {_named(standing)}"


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
