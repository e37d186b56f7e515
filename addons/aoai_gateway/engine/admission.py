"""Admission: a client's limits on a request, the booking against its quotas, the settlement.

Before a call is routed, the most that it can cost is booked: its prompt's tokens, counted here, and the
bound of its completion, or what its model may write. When it has ended, its real cost takes the
booking's place. A request counts once a backend may have begun to work on it, whatever becomes of it; a call
that none has taken costs nothing.

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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aoai_gateway.bounded import Recent
from aoai_gateway.engine import media, money
from aoai_gateway.engine.call import Call, Notice, Outcome, PolicyAction
from aoai_gateway.engine.effects import (
    Book,
    Cancel,
    ClientGone,
    CountDelivered,
    Counted,
    CountTokens,
    Effect,
    Refused,
    Reserve,
    Reserved,
    Result,
    Settle,
    WaitUntil,
)
from aoai_gateway.engine.end_users import ACCOUNT, EndUsers, user_of
from aoai_gateway.engine.pools import has_backends
from aoai_gateway.engine.timeouts import LARGEST_BOUND, answers, completion_bound
from aoai_gateway.quota.access import may_use
from aoai_gateway.quota.effective_policy import REJECT, EffectivePolicy, effective_policy
from aoai_gateway.quota.quotas import Decision, Limit, Reservation, Standing
from aoai_gateway.quota.request_limits import apply, bound_of_response
from aoai_gateway.tokens import Correction
from aoai_gateway.tokens.longest import most_output_tokens
from aoai_gateway.wire import errors
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, RESPONSES, Cost

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from aoai_gateway.config.models import Config

DEFAULT_COMPLETION = 512
"""Tokens that usually suffice for a completion without a bound."""

MOST_DEPLOYMENTS = 10_000
"""The one unused for longest is forgotten: where every deployment is known, clients make up the names."""

ASK_AGAIN_SECONDS = 1.0
"""Seconds after which a waiting call asks again whether it fits: settlements make room early."""


@dataclass(slots=True)
class Booking:
    """What is booked for one response of a session, if anything is."""

    reservation: Reservation | None = None


class Admission:
    """Admission for all calls of a gateway, with the corrections of counts that earlier calls taught."""

    def __init__(self) -> None:
        self._users = EndUsers()
        self._corrections: Recent[Correction] = Recent(MOST_DEPLOYMENTS)
        self._stretched: dict[str, Call] = {}
        """By client, the call that may take more than is booked for it."""
        self._models: Recent[str] = Recent(MOST_DEPLOYMENTS)
        """The base model of each deployment, as its answers named it."""

    def admit(
        self, call: Call, now: float, *, at_once: bool = False
    ) -> Generator[Effect, Result, float | None]:
        """Hold a call to its client's limits and book it. Gives the time, or None if it has ended.

        ``at_once``: it neither waits nor is degraded. Raises GatewayError when it is refused.
        """
        terms = effective_policy(call.setup.config, call.client, call.deployment)
        if at_once:
            terms = replace(terms, on_exceed=REJECT)
        if call.client.user_from is not None:
            call.user = user_of(call, call.client.user_from)
        counted = _needs_count(terms) or money.budget_of(call.client) is not None
        if counted and call.body is not None and call.body.is_json and _costs(call):
            result = yield from self._count(call)
            if self._gone(call, result):
                return None
            now = result.now
        try:
            if not terms.has_limit_here and _costs(call):
                raise errors.no_limit_configured(call.deployment)
            self._hold_to_limits(call, terms)
        except errors.GatewayError as error:
            if not terms.dry_run:
                raise
            call.notices[Notice.DRY_RUN] = error.code
            call.policy.append(PolicyAction("reject", error.code, dry_run=True))
        return (yield from self._book(call, terms, now))

    def _hold_to_limits(self, call: Call, terms: EffectivePolicy) -> None:
        body = call.body
        assert body is not None
        prompt = self._prompt_tokens(call) if call.prompt is not None else None
        limited = apply(terms.request_limits, body, prompt)
        if not limited.notes:
            return
        for change in limited.changes:
            call.policy.append(PolicyAction("clamp", *change, dry_run=terms.dry_run))
        if terms.dry_run:
            call.notices[Notice.DRY_RUN] = ", ".join(limited.notes)
            return
        call.notices[Notice.CLAMPED] = ", ".join(limited.notes)
        for name in ("max_tokens", "n", "best_of"):
            value = getattr(limited, name)
            if value is not None:
                call.edits[name] = value

    def _count(self, call: Call) -> Generator[Effect, Result, Result]:
        body = call.body
        assert body is not None
        result = yield CountTokens(call.target, body, self._model(call))
        if isinstance(result, Refused):
            raise result.error
        if isinstance(result, Counted):
            call.prompt = result.count
        return result

    def _model(self, call: Call) -> str | None:
        """Return the base model, as far as it is known."""
        return call.setup.config.model_of(call.deployment) or self._models.get(call.deployment)

    def _prompt_tokens(self, call: Call) -> int:
        count = call.prompt
        if count is None:
            return 0
        return (self._corrections.get(call.deployment) or Correction()).tokens(count)

    def _least(self, call: Call) -> int:
        """Give the tokens that a call takes, if nothing says how long its answer is: usually enough."""
        return self._prompt_tokens(call) + _bound(call)

    def _most(self, call: Call) -> int:
        """Give the tokens that a call can take."""
        if completion_bound(call) is not None or call.target.operation not in (CHAT_COMPLETIONS, RESPONSES):
            return self._least(call)
        most = most_output_tokens(self._model(call)) * answers(call)
        return self._prompt_tokens(call) + min(most, LARGEST_BOUND)

    def _what_is_left(self, call: Call, decision: Decision, asked: int) -> int | None:
        """Give the tokens to book for a call without a bound, for which not all was left that it can take.

        It gets what is left, if that is usually enough. One of a client at a time, as it may take more: so
        the client stays within its limit and one call. None: it is not to be had now.
        """
        standing = decision.refused_by
        other = self._stretched.get(call.client.name)
        if standing is None or standing.in_money or not standing.kind.counts_tokens:
            return None
        if other is not None and other.ended is None:
            return None
        tokens = [each for each in decision.standings if each.kind.counts_tokens and not each.in_money]
        left = min(each.remaining for each in tokens)
        return left if self._least(call) <= left < asked else None

    def _reservation(self, call: Call, terms: EffectivePolicy, tokens: int, now: float) -> Reservation:
        quotas = terms.quotas
        if terms.per_user is not None:
            account = self._users.account(call.client.name, call.user, now)
            quotas = (*quotas, replace(terms.per_user, deployment=account))
        return Reservation(booking_name(call), call.client.name, quotas, tokens)

    def _priced(self, call: Call, terms: EffectivePolicy, reservation: Reservation) -> Reservation:
        """Add a client's budget in money, and what the call may cost, to what is asked of its quotas.

        Raises a 403 if it has such a budget, and nothing says what the call costs.
        """
        if not _costs(call):
            return reservation
        try:
            return money.priced(call, reservation, self._prompt_tokens(call), _bound(call))
        except errors.GatewayError as error:
            if not terms.dry_run:
                raise
            if error.code not in call.notices.get(Notice.DRY_RUN, ""):
                self.say(call, Notice.DRY_RUN, error.code)
            return reservation

    def _book(
        self, call: Call, terms: EffectivePolicy, now: float
    ) -> Generator[Effect, Result, float | None]:
        begun, held = now, call.waited
        degraded: set[str] = set()
        size = None
        over: set[str | None] = set()
        """The accounts that would have refused it, in a dry run."""
        while True:
            most = self._most(call)
            size = most if size is None else size
            reservation = self._priced(call, terms, self._reservation(call, terms, size, now))
            reservation = _without(reservation, over)
            if not reservation.quotas:
                return now
            if call.unproven:
                reservation = _of_nothing(reservation)
            result = yield Reserve(reservation)
            if self._gone(call, result):
                return None
            assert isinstance(result, Reserved)
            now, decision = result.now, result.decision
            call.quota_headers = decision.headers()
            call.waited = held + now - begun
            if decision.admitted:
                call.reserved = reservation
                if counts_tokens(reservation):
                    call.reserved_tokens = reservation.tokens
                call.stretched = size < most
                if call.stretched:
                    self._stretched[call.client.name] = call
                return now
            size = self._what_is_left(call, decision, size)
            if size is not None:
                continue
            refused = _refused_by(reservation, decision, dry_run=terms.dry_run)
            if refused is not None and refused.what != getattr(_last(call.policy), "what", None):
                call.policy.append(refused)
            elif refused is not None:
                # A call that waits asks again and again: the newest word counts.
                call.policy[-1] = refused
            if terms.dry_run and decision.refused_by is not None:
                # The others are booked all the same.
                self.say(call, Notice.DRY_RUN, _over(decision.refused_by))
                over.add(decision.refused_by.deployment)
                continue
            exceeded = terms.on_exceed
            if exceeded.action == "degrade":
                changed = self._degrade(call, terms, degraded, decision)
                if changed is not None:
                    terms = changed
                    continue
            if exceeded.action == "wait":
                last = begun + min(exceeded.seconds, 0.5 * call.patience())
                if now < last and now + decision.soonest <= last:
                    pause = min(decision.retry_after, ASK_AGAIN_SECONDS)
                    waited = yield WaitUntil(min(now + pause, last))
                    if self._gone(call, waited):
                        return None
                    continue
            raise self._refusal(call, reservation, decision)

    def _degrade(
        self, call: Call, terms: EffectivePolicy, tried: set[str], decision: Decision
    ) -> EffectivePolicy | None:
        """Change a call that does not fit, as its policy allows. None: nothing (more) is allowed."""
        exceeded, config = terms.on_exceed, call.setup.config
        if exceeded.deployment is not None and "deployment" not in tried:
            tried.add("deployment")
            other = exceeded.deployment
            usable = config.knows(other) and may_use(call.client, other) and has_backends(call, other)
            if other != call.deployment and usable:
                call.asked = call.asked or call.deployment
                call.deployment = other
                self.say(call, Notice.DEGRADED, f"deployment {call.asked} -> {other}")
                call.policy.append(PolicyAction("degrade", "deployment", call.asked, other))
                # The other deployment's own quota counts, the ways out stay those of the first.
                changed = effective_policy(config, call.client, other)
                return replace(changed, on_exceed=exceeded)
        if exceeded.max_tokens is not None and "max_tokens" not in tried:
            tried.add("max_tokens")
            assert call.body is not None
            asked = call.edits.get("max_tokens", call.body.max_tokens)
            if asked is None or asked > exceeded.max_tokens:
                call.edits["max_tokens"] = exceeded.max_tokens
                call.policy.append(PolicyAction("degrade", "max_tokens", asked, exceeded.max_tokens))
                self.say(call, Notice.DEGRADED, f"max_tokens {asked or 'unbounded'} -> {exceeded.max_tokens}")
                return terms
        if exceeded.priority is not None and "priority" not in tried:
            tried.add("priority")
            before, call.priority = call.priority or call.client.priority, exceeded.priority
            call.policy.append(PolicyAction("degrade", "priority", before, exceeded.priority))
            self.say(call, Notice.DEGRADED, f"priority {exceeded.priority}, over {limit_of(decision)}")
            # It runs outside the quota, when there is nothing better to do.
            return replace(terms, quotas=(), per_user=None)
        return None

    @staticmethod
    def say(call: Call, notice: Notice, words: str) -> None:
        """Note what was done to a call, for its answer's headers."""
        said = call.notices.get(notice)
        call.notices[notice] = f"{said}; {words}" if said else words

    @staticmethod
    def _refusal(call: Call, reservation: Reservation, decision: Decision) -> errors.GatewayError:
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

    @staticmethod
    def _gone(call: Call, result: Result) -> bool:
        if not isinstance(result, ClientGone):
            return False
        call.outcome, call.ended = Outcome.CLIENT_GONE, result.now
        return True

    # --- the responses of a session ------------------------------------------------------------------

    def response_bound(self, call: Call, asked: int | None) -> int | None:
        """Return what a response of a session is to be bounded to that asks for this bound; None: as it asks.

        Raises GatewayError when it asks for more than the client may.
        """
        terms = effective_policy(call.setup.config, call.client, call.deployment)
        return None if terms.dry_run else bound_of_response(terms.request_limits, asked)

    def book_response(
        self, call: Call, number: int, prompt: int, answer: int, now: float
    ) -> Generator[Effect, Result, Booking]:
        """Book what the next response of a session may take. Raises GatewayError when it does not fit.

        ``prompt``, ``answer``: its tokens, at most as far as that is known.
        """
        terms = effective_policy(call.setup.config, call.client, call.deployment)
        whole = self._reservation(call, terms, prompt + answer, now)
        whole = replace(whole, id=f"{call.id}/response {number}", requests=0)
        if money.has_price(call):
            whole = money.priced(call, whole, prompt, answer)
        over: set[str | None] = set()
        while True:
            reservation = _without(whole, over)
            if not reservation.quotas:
                return Booking()
            result = yield Reserve(reservation)
            assert isinstance(result, Reserved)
            if result.decision.admitted:
                return Booking(reservation)
            _note(call, _refused_by(reservation, result.decision, dry_run=terms.dry_run))
            if not terms.dry_run or result.decision.refused_by is None:
                raise self._refusal(call, reservation, result.decision)
            over.add(result.decision.refused_by.deployment)

    # --- the end -------------------------------------------------------------------------------------

    def settle(self, call: Call) -> Generator[Effect, Result]:
        """Replace the booking by the call's cost, and learn from it."""
        if call.prompt is not None and call.usage is not None:
            before = self._corrections.get(call.deployment) or Correction()
            self._corrections.put(call.deployment, before.learned(call.prompt, call.usage.input_tokens))
        if call.model is not None and call.target.operation.prompt_form != "responses":
            # In the Responses API, Azure names the deployment there.
            self._models.put(call.deployment, call.model)
        if self._stretched.get(call.client.name) is call:
            del self._stretched[call.client.name]
        yield from self.book_again(call)
        reservation, call.reserved = call.reserved, None
        uncounted = self.uncounted(call)
        if uncounted is not None:
            counted = yield uncounted
            assert isinstance(counted, Counted)
            call.take_delivered(counted.count.tokens)
        for closing in self._closings(call, reservation):
            yield closing
        if call.unproven and reservation is not None and any(each.taken for each in call.attempts):
            yield from self._count_late(call, reservation)

    @staticmethod
    def book_again(call: Call) -> Iterator[Book]:
        """Make the booking anew that was taken back for a deployment that did not get the call.

        A backend has worked on it, so it is booked whether or not other calls have taken its room meanwhile.
        """
        taken_back, call.taken_back = call.taken_back, None
        if taken_back is not None:
            call.reserved = replace(taken_back, id=booking_name(call))
            yield Book(call.reserved)

    @staticmethod
    def _count_late(call: Call, reservation: Reservation) -> Generator[Effect, Result]:
        """Count a request that was not booked before its token was accepted, as far as it fits."""
        late = Reservation(booking_name(call), call.client.name, reservation.quotas, 0, cost=reservation.cost)
        result = yield Reserve(late)
        if isinstance(result, Reserved) and result.decision.admitted:
            yield Settle(late, 0)

    def uncounted(self, call: Call) -> CountDelivered | None:
        """Say what of an answer is to be counted here, since it has brought no usage."""
        if not (call.served and call.usage is None and call.delivered):
            return None
        return CountDelivered(call.delivered, self._model(call))

    def abandoned(self, call: Call) -> Iterator[Book | Settle | Cancel]:
        """Say what becomes of the bookings of a call that cannot be led to its end.

        What was delivered of its answer is charged, so it is to be known by then (`uncounted`).
        """
        yield from self.book_again(call)
        reservation, call.reserved = call.reserved, None
        yield from self._closings(call, reservation)

    def _closings(self, call: Call, reservation: Reservation | None) -> Iterator[Settle | Cancel]:
        """Say what becomes of a call's booking: it counts if a backend may have begun to work on it."""
        if reservation is None:
            return
        delivered = call.delivered_tokens or 0
        taken = any(attempt.taken for attempt in call.attempts)
        prompt, answer = self._prompt_tokens(call), _answer_tokens(call, delivered)
        known = call.usage.total_tokens if call.usage is not None else prompt + (answer or 0)
        used = known if taken and answer is not None else 0
        if counts_tokens(reservation):
            call.charged_tokens = used
        cost = None
        if reservation.cost is not None:
            cost = money.spent(call, prompt, answer or 0) if taken and answer is not None else 0
        # A budget in money counts no requests, so nothing is left of what has cost nothing.
        counts = taken and (counts_tokens(reservation) or bool(cost))
        yield Settle(reservation, used, cost) if counts else Cancel(reservation)


def booking_name(call: Call) -> str:
    """Give the name of the next booking.

    A refused booking and the next one are two questions; no store may take them for one.
    """
    call.bookings += 1
    return call.id if call.bookings == 1 else f"{call.id}/{call.bookings - 1}"


def counts_prompts(config: Config) -> bool:
    """Whether any client has a limit that prompts are counted for."""
    deployments = (*config.virtual_deployments, "")
    return any(
        _needs_count(effective_policy(config, c, d)) or money.budget_of(c) is not None
        for c in config.clients
        for d in deployments
    )


def _bound(call: Call) -> int:
    """Return the tokens that are booked for a call's completion."""
    if media.makes_images(call):
        assert call.body is not None
        return media.image_tokens(call.body)
    bound = completion_bound(call)
    return min(DEFAULT_COMPLETION * answers(call), LARGEST_BOUND) if bound is None else bound


def _costs(call: Call) -> bool:
    """Whether a call of its kind costs tokens at all."""
    return call.target.operation.cost is not Cost.NONE


def _answer_tokens(call: Call, delivered: int) -> int | None:
    """Return the tokens of a call's answer, as far as is known what was done for it; None: it costs nothing.

    Where the answer was not waited for, they are what was booked for it. What failed costs nothing.
    """
    if not _costs(call):
        return None
    if call.usage is None and call.attempt is not None and call.attempt.unseen:
        return max(delivered, _bound(call))
    return delivered if call.served or call.usage is not None else None


def counts_tokens(reservation: Reservation) -> bool:
    """Whether any of its quotas counts tokens and requests."""
    return any(not quota.in_money for quota in reservation.quotas)


def _of_nothing(reservation: Reservation) -> Reservation:
    """Ask for nothing: a made-up token must not hold what the client's users have.

    What it was is booked at the call's end.
    """
    return replace(reservation, tokens=0, requests=0, cost=None if reservation.cost is None else 0)


def _without(reservation: Reservation, over: set[str | None]) -> Reservation:
    """Leave out the accounts that have refused it in a dry run. It has another name each time."""
    if not over:
        return reservation
    rest = tuple(quota for quota in reservation.quotas if quota.deployment not in over)
    return replace(reservation, id=f"{reservation.id}/without {len(over)}", quotas=rest)


def _needs_count(terms: EffectivePolicy) -> bool:
    if terms.request_limits.prompt_tokens is not None:
        return True
    quotas = terms.quotas if terms.per_user is None else (*terms.quotas, terms.per_user)
    return any(limit.counts_tokens for quota in quotas for limit, _ in quota.set_limits())


def _note(call: Call, refused: PolicyAction | None) -> None:
    """Note a quota's refusal within a session; of the same quota the newest word counts."""
    if refused is None:
        return
    if refused.what == getattr(_last(call.policy), "what", None):
        call.policy.pop()
    call.policy.append(refused)


def _last(actions: list[PolicyAction]) -> PolicyAction | None:
    """Give the last action, if it is a quota's."""
    return actions[-1] if actions and actions[-1].action == "quota" else None


def _refused_by(reservation: Reservation, decision: Decision, *, dry_run: bool) -> PolicyAction | None:
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


def _over(standing: Standing) -> str:
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
