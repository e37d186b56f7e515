"""Admission: a client's limits on a request, and the booking against its quotas.

Before a call is routed, the most that it can cost is booked: its prompt's tokens, counted here, and the
bound of its completion, or what its model may write (:mod:`~aoai_gateway.engine.estimates`). When it has
ended, its real cost takes the booking's place (:mod:`~aoai_gateway.engine.settlement`).

The client's policy (`when_exceeded`) decides about a call that does not fit:

- *reject*: 429, with the exact time after which it would fit.
- *wait*: it is held back until it fits, within the policy's bound and the client's own patience. It asks
  again and again, since running calls that are settled with less than was booked make room early. When not
  even that can make it fit within the bound, it is refused at once.
- *degrade*: another deployment, a smaller completion or a lower priority, as the policy allows.

In a dry run everything is booked as far as it fits, and no call is refused: the answer and the record tell
what would have happened.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from aoai_gateway.engine import effects, money
from aoai_gateway.engine.answer_times import DEFAULT_PATIENCE, client_timeout
from aoai_gateway.engine.call import Call, Notice, Outcome
from aoai_gateway.engine.end_users import ACCOUNT, EndUsers, user_of
from aoai_gateway.engine.estimates import completion_tokens, costs
from aoai_gateway.engine.routing_request import has_backends
from aoai_gateway.quota.effective_policy import REJECT, EffectivePolicy, PolicyAction, effective_policy
from aoai_gateway.quota.quotas import UNIT, Decision, Limit, Reservation
from aoai_gateway.quota.request_limits import NO_LIMITS, apply, bound_of_response
from aoai_gateway.wire import errors
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from aoai_gateway.config.models import Config
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.engine.estimates import Estimates
    from aoai_gateway.quota.quotas import Budget, Standing

ASK_AGAIN_SECONDS = 1.0
"""Seconds after which a waiting call asks again whether it fits: settlements make room early."""


BUDGET_EXCEEDED = "budget_exceeded"
"""That of a refusal by a budget in money."""


class Admission:
    """Admission for all calls of a gateway."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates
        self._users = EndUsers()
        self._stretched: dict[str, Call] = {}
        """By client, the call that may take more than is booked for it."""

    def admit(self, call: Call, now: float, *, at_once: bool = False) -> EffectGenerator[float | None]:
        """Hold a call to its client's limits and book it. Returns the time, or None if it has ended.

        ``at_once``: it neither waits nor is degraded. Raises GatewayError when it is refused.
        """
        terms = call.plan.terms
        if at_once:
            terms = replace(terms, on_exceed=REJECT)
        if call.client.user_from is not None:
            call.user = user_of(call, call.client.user_from)
        if terms.counts_prompts and call.body is not None and call.body.is_json and costs(call):
            result = yield effects.CountTokens(call.target, call.body, self._estimates.model(call))
            if self._gone(call, result):
                return None
            if isinstance(result, effects.Refused):
                raise result.error
            if isinstance(result, effects.Counted):
                call.prompt = result.count
            now = result.now
        if not terms.has_limit_here or terms.request_limits is not NO_LIMITS:
            self._hold_to_limits(call, terms)
        if not terms.has_quotas:
            return now
        return (yield from self._book(call, terms, now))

    def _hold_to_limits(self, call: Call, terms: EffectivePolicy) -> None:
        """Hold a call to the limits of one request. Raises GatewayError when it is refused."""
        try:
            if not terms.has_limit_here and costs(call):
                raise errors.no_limit_configured(call.deployment)
            self._bound(call, terms)
        except GatewayError as error:
            if not terms.dry_run:
                raise
            call.note_alone(Notice.DRY_RUN, error.code)
            call.policy += (PolicyAction("reject", error.code, dry_run=True),)

    def _bound(self, call: Call, terms: EffectivePolicy) -> None:
        """Bound what a call asks for. Raises GatewayError when that is not to be lowered."""
        body = call.body
        assert body is not None
        prompt = self._estimates.prompt_tokens(call) if call.prompt is not None else None
        changes = apply(terms.request_limits, body, prompt)
        if not changes:
            return
        call.policy += tuple(PolicyAction("clamp", *each, dry_run=terms.dry_run) for each in changes)
        call.note_alone(Notice.DRY_RUN if terms.dry_run else Notice.CLAMPED, ", ".join(map(str, changes)))
        if not terms.dry_run:
            for change in changes:
                call.edit(change.edits, change.given)

    def _what_is_left(self, call: Call, decision: Decision, asked: int) -> int | None:
        """Return the tokens to book for a call without a bound, for which not all was left that it can take.

        It gets what is left, if that is usually enough. One of a client at a time, as it may take more: so
        the client stays within its limit and one call. None: it is not to be had now.
        """
        standing = decision.refused_by
        other = self._stretched.get(call.client.name)
        if standing is None or standing.in_money or not standing.kind.counts_tokens:
            return None
        if other is not None and other is not call and other.ended is None:
            return None
        tokens = [each for each in decision.standings if each.kind.counts_tokens and not each.in_money]
        left = min(each.remaining for each in tokens)
        return left if self._estimates.least(call) <= left < asked else None

    def reservation(self, call: Call, terms: EffectivePolicy, tokens: int, now: float) -> Reservation:
        """Return what is asked of a call's quotas."""
        quotas = terms.quotas
        if terms.per_user is not None:
            account = self._users.account(call.client.name, call.user, now)
            quotas = (*quotas, replace(terms.per_user, deployment=account))
        return Reservation(call.next_booking(), call.client.name, quotas, tokens)

    def _priced(
        self, call: Call, terms: EffectivePolicy, budget: Budget, reservation: Reservation
    ) -> Reservation:
        """Add a client's budget in money, and what the call may cost, to what is asked of its quotas.

        Raises a 403 if it has such a budget, and nothing says what the call costs.
        """
        prompt, answer = self._estimates.prompt_tokens(call), completion_tokens(call)
        try:
            return money.priced(call, reservation, budget, prompt, answer)
        except GatewayError as error:
            if not terms.dry_run:
                raise
            if error.code not in call.notices.get(Notice.DRY_RUN, ""):
                call.note(Notice.DRY_RUN, error.code)
            return reservation

    def _book(self, call: Call, terms: EffectivePolicy, now: float) -> EffectGenerator[float | None]:
        begun, held = now, call.waited
        degraded: set[str] = set()
        size = None
        over: set[str | None] = set()
        """The accounts that would have refused it, in a dry run."""
        while True:
            most = self._estimates.most(call)
            size = most if size is None else size
            reservation = self.reservation(call, terms, size, now)
            if terms.budget is not None and costs(call):
                reservation = self._priced(call, terms, terms.budget, reservation)
            if over:
                reservation = without_accounts(reservation, over)
            if not reservation.quotas:
                return now
            if call.unproven:
                reservation = _of_nothing(reservation)
            result = yield effects.Reserve(reservation)
            if self._gone(call, result):
                return None
            assert isinstance(result, effects.Reserved)
            now, decision = result.now, result.decision
            call.quota = decision
            call.waited = held + now - begun
            if decision.admitted:
                call.reserved = reservation
                if reservation.counts_tokens:
                    call.reserved_tokens = reservation.tokens
                if size < most:
                    self._stretched[call.client.name] = call
                elif call.stretched:
                    # It has fallen back to where it fits.
                    self.forget(call)
                call.stretched = size < most
                return now
            size = self._what_is_left(call, decision, size)
            if size is not None:
                continue
            note_refused(call, refused_by(reservation, decision, dry_run=terms.dry_run))
            if terms.dry_run and decision.refused_by is not None:
                # The others are booked all the same.
                call.note(Notice.DRY_RUN, excess(decision.refused_by))
                over.add(decision.refused_by.deployment)
                continue
            exceeded = terms.on_exceed
            if exceeded.action == "degrade":
                changed = self._degrade(call, terms, degraded, decision)
                if changed is not None:
                    terms = changed
                    continue
            if exceeded.action == "wait":
                last = begun + min(exceeded.seconds, 0.5 * (client_timeout(call) or DEFAULT_PATIENCE))
                if now < last and now + decision.soonest <= last:
                    pause = min(decision.retry_after, ASK_AGAIN_SECONDS)
                    waited = yield effects.WaitUntil(min(now + pause, last))
                    if self._gone(call, waited):
                        return None
                    continue
            raise refusal(call, reservation, decision)

    def _degrade(
        self, call: Call, terms: EffectivePolicy, tried: set[str], decision: Decision
    ) -> EffectivePolicy | None:
        """Change a call that does not fit, as its policy allows. None: nothing (more) is allowed."""
        exceeded = terms.on_exceed
        if exceeded.deployment is not None and "deployment" not in tried:
            tried.add("deployment")
            other = exceeded.deployment
            plan = call.setup.plan(call.client, other)
            usable = plan.is_known and plan.terms.may_use and has_backends(call, plan)
            if other != call.deployment and usable:
                call.asked = call.asked or call.deployment
                call.assign(plan)
                call.note(Notice.DEGRADED, f"deployment {call.asked} -> {other}")
                call.policy += (PolicyAction("degrade", "deployment", call.asked, other),)
                # The other deployment's own quota counts, the ways out stay those of the first.
                return replace(plan.terms, on_exceed=exceeded)
        if exceeded.max_tokens is not None and "max_tokens" not in tried:
            tried.add("max_tokens")
            assert call.body is not None
            asked = call.edits.get("max_tokens", call.body.max_tokens)
            if asked is None or asked > exceeded.max_tokens:
                call.edit("max_tokens", exceeded.max_tokens)
                call.policy += (PolicyAction("degrade", "max_tokens", asked, exceeded.max_tokens),)
                call.note(Notice.DEGRADED, f"max_tokens {asked or 'unbounded'} -> {exceeded.max_tokens}")
                return terms
        if exceeded.priority is not None and "priority" not in tried:
            tried.add("priority")
            before, call.priority = call.priority or call.client.priority, exceeded.priority
            call.policy += (PolicyAction("degrade", "priority", before, exceeded.priority),)
            call.note(Notice.DEGRADED, f"priority {exceeded.priority}, over {limit_of(decision)}")
            # It runs outside the quota, when there is nothing better to do.
            return replace(terms, quotas=(), per_user=None)
        return None

    @staticmethod
    def _gone(call: Call, result: effects.Result) -> bool:
        if not isinstance(result, effects.ClientGone):
            return False
        call.outcome, call.ended = Outcome.CLIENT_GONE, result.now
        return True

    def forget(self, call: Call) -> None:
        """Forget a call that has ended: another one of its client may take more than is booked for it."""
        if self._stretched.get(call.client.name) is call:
            del self._stretched[call.client.name]

    def response_bound(self, call: Call, asked: int | None) -> int | None:
        """Return what a response of a session is to be bounded to that asks for this bound; None: as it asks.

        Raises GatewayError when it asks for more than the client may.
        """
        terms = call.plan.terms
        return None if terms.dry_run else bound_of_response(terms.request_limits, asked)


def counts_prompts(config: Config) -> bool:
    """Whether any client has a limit that prompts are counted for."""
    deployments = (*config.virtual_deployments, "")
    return any(
        effective_policy(config, client, deployment).counts_prompts
        for client in config.clients
        for deployment in deployments
    )


def _of_nothing(reservation: Reservation) -> Reservation:
    """Ask for nothing: a made-up token must not hold what the client's users have.

    What it was is booked at the call's end.
    """
    return replace(reservation, tokens=0, requests=0, cost=None if reservation.cost is None else 0)


def without_accounts(reservation: Reservation, over: set[str | None]) -> Reservation:
    """Leave out the accounts that have refused it in a dry run. It has another name each time."""
    rest = tuple(quota for quota in reservation.quotas if quota.deployment not in over)
    return replace(reservation, id=f"{reservation.id}/without {len(over)}", quotas=rest)


# --- refusals by quotas ---------------------------------------------------------------------------------


def refusal(call: Call, reservation: Reservation, decision: Decision) -> GatewayError:
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


def _budget_refusal(standing: Standing, retry_after: float) -> GatewayError:
    """Make the answer to a call that a budget in money does not cover."""
    period = standing.kind.calendar
    left = standing.remaining / UNIT
    text = f"Your budget of {standing.limit / UNIT:,.2f} per {period} is used up."
    if left:
        text = (
            f"Your budget of {standing.limit / UNIT:,.2f} per {period} has {left:,.4f} left, and the call "
            "may cost more. Lower its max_tokens, or wait."
        )
    return errors.rate_limited(text, retry_after, code=BUDGET_EXCEEDED)


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
    return BUDGET_EXCEEDED if standing.in_money else f"over {_named(standing)}"


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
