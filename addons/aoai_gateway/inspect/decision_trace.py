"""The story of a call: every decision that was taken for it, in order and in words.

The engine says all that it decides in what it asks for (its effects) and learns all that it decides from in
what it is told (their results). So nothing in the engine writes a story: `follow` stands between the engine
and its driver, and keeps both as they pass. Words are made of them once, by `tell`, when the call has
ended. Where no user looks at flows, calls are not followed, and none of this runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aoai_gateway.engine import effects
from aoai_gateway.engine.attempt import Fault
from aoai_gateway.engine.call import Notice
from aoai_gateway.quota.quotas import UNIT, Limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call, Outcome, Session
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.quota.quotas import Decision, Reservation, Standing
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.routing.order import Skip

PER = {
    Limit.TOKENS_PER_MINUTE: "tokens per minute",
    Limit.REQUESTS_PER_MINUTE: "requests per minute",
    Limit.TOKENS_PER_DAY: "tokens per day",
    Limit.TOKENS_PER_MONTH: "tokens per month",
}

NOTICES = {
    Notice.CLAMPED: "its request limits lower what it asks for",
    Notice.DEGRADED: "over its quota, it is served in a lesser way",
    Notice.FALLBACK: "another deployment serves it",
    Notice.DRY_RUN: "dry run: this would have been held against it",
}


TEXTS: Mapping[type, tuple[str, ...]] = {
    effects.ParseBody: ("raw",),
    effects.Parsed: ("body",),
    effects.CountTokens: ("body",),
    effects.CountDelivered: ("delivered",),
    effects.Announce: ("body",),
    effects.Return: ("body",),
    effects.Answered: ("headers",),
    effects.Failed: ("headers", "body", "answer"),
    effects.Drained: ("body",),
    effects.Ended: ("delivered", "minted"),
    effects.ClientGone: ("so_far",),
}
"""The fields of effects and results with parts of requests and answers, which no story repeats."""

WORTH_TELLING = 0.1
"""Seconds of a request that are worth a word."""

NO_NOTICES: Mapping[Notice, str] = {}


@dataclass(slots=True)
class Step:
    """One effect and what came of it. The copies are of what the call changes later on."""

    effect: effects.Effect
    skipped: tuple[Skip, ...]
    notices: Mapping[Notice, str]
    break_seconds: float | None
    """The break of the attempt in question, at that time: it may be withdrawn."""
    breaks: Mapping[str, float] | None
    """The same for each class."""
    scope: Scope | None
    result: effects.Result | None = None
    """None if the call ended before anything came of it."""


@dataclass(slots=True)
class Notes:
    """What was noted of a call, until it is told."""

    steps: list[Step] = field(default_factory=list)

    def forget_texts(self) -> None:
        """Let go of what stands in requests and answers: no story repeats it, and it may be large."""
        for step in self.steps:
            for kept in (step.effect, step.result):
                for name in TEXTS.get(type(kept), ()):
                    if getattr(kept, name) is not None:
                        setattr(kept, name, b"")


def follow[T](run: EffectGenerator[T], call: Call, notes: Notes) -> EffectGenerator[T]:
    """Drive one of the engine's generators on behalf of another driver, and note what passes."""
    result: effects.Result | None = None
    try:
        while True:
            try:
                effect = next(run) if result is None else run.send(result)
            except StopIteration as stop:
                value: T = stop.value
                return value
            notices = call.notices
            if call.attempts:
                last = call.attempts[-1]
                step = Step(effect, call.skipped, notices, last.break_seconds, last.breaks, last.scope)
            else:
                step = Step(effect, call.skipped, notices, None, None, None)
            notes.steps.append(step)
            result = step.result = yield effect
    finally:
        run.close()


def tell(call: Call, notes: Notes) -> list[str]:
    """Tell a call that has ended, a line for each decision: ``"  12 ms  attempt 1: gpt-4o-ptu@sweden"``."""
    lines = [(call.started, _question(call))]
    now, noted = call.started, NO_NOTICES
    # What happened during a session comes before its end.
    steps = sorted(notes.steps, key=lambda step: math.inf if step.result is None else step.result.now)
    for step in _worth_telling(steps):
        for notice, said in step.notices.items():
            new = said.removeprefix(noted.get(notice, "")).removeprefix("; ")
            if new:
                lines.append((now, f"{NOTICES[notice]}: {new}"))
        noted = step.notices
        lines += [(now, text) for text in _before(call, step)]
        if step.result is not None:
            began, now = now, step.result.now
            if (
                isinstance(step.result, effects.Ended)
                and step.result.first_content is not None
                and call.streaming
            ):
                lines.append((step.result.first_content, "first content"))
            lines += [(now, text) for text in _after(step, began)]
    for scope in call.withdrawn:
        lines.append((now, f"the break on {_place(scope)} is taken back: the call is the likely cause"))
    if call.fallback_refused is not None:
        lines.append((call.ended or now, f"no other deployment serves it: {call.fallback_refused}"))
    if call.session is not None:
        lines.append((call.ended or now, _session(call.session)))
    if call.outcome is not None:
        lines.append((call.ended or now, _end(call, call.outcome)))
    return [f"{_offset(at - call.started):>9}  {text}" for at, text in lines]


def _worth_telling(steps: Sequence[Step]) -> Iterator[Step]:
    """Leave out what is between the first and the last time that a waiting call asked for its quota."""
    waits = [isinstance(step.effect, effects.WaitUntil) for step in steps]
    if not any(waits):
        yield from steps
        return
    for number, step in enumerate(steps):
        after = waits[number + 1 : number + 3]
        if isinstance(step.effect, effects.Reserve) and number and waits[number - 1]:
            if after and after[0]:
                continue
        elif waits[number] and len(after) == 2 and after[1]:
            continue
        yield step


# --- what was asked and decided ----------------------------------------------------------------------


def _question(call: Call) -> str:
    body = call.body
    asked = call.asked or call.deployment or "no deployment"
    cls = f" (class {call.cls.name})" if call.cls is not None and call.setup.config.priorities else ""
    text = f"{call.client.name}{cls} asks for {asked}"
    text += f": {call.target.operation.name}, {'streaming' if call.streaming else 'not streaming'}"
    if call.request_seconds >= WORTH_TELLING:
        text += f"; its request took {_seconds(call.request_seconds)} to come"
    if body is None:
        return text
    if body.max_tokens is not None:
        text += f", max_tokens {body.max_tokens:,}"
    if call.requested_tier is not None:
        text += f", service tier {call.requested_tier}"
    return f"{text}; {body.size:,} bytes"


def _before(call: Call, step: Step) -> Iterator[str]:
    match step.effect:
        case effects.Send(attempt=attempt, timeouts=timeouts):
            number, name = attempt.number, attempt.backend.name
            yield from _passed_over(s for s in attempt.skipped if not _failed_before(call, s, number))
            if attempt.resent and step.effect.fresh and not call.creates_state:
                yield f"attempt {number} once more to {name}, on a new connection: the old one was closed"
            else:
                yield f"attempt {number}: {name}, which has {timeouts.first_byte:.3g} s to answer"
        case effects.Announce(attempt=attempt):
            yield from _spillover(attempt)
            yield f"attempt {attempt.number} failed: {attempt.reason}; {_break(step)}"
        case effects.Return(attempt=attempt):
            yield f"answers with what {attempt.backend.name} said: {attempt.status}"
        case effects.Reject(error=error):
            if error.status == 429 and error.code != "all_backends_out":
                # That one names all of them itself.
                yield from _passed_over(step.skipped)
            yield f"answers {error.status} {error.code}: {error.message}"
        case effects.Book(reservation=booked):
            yield f"reservation of {booked.tokens:,} tokens made anew, whether they fit or not"
        case effects.Settle(reservation=booked, tokens=tokens, cost=cost):
            spent = "" if cost is None else f", and {_money(cost)} instead of {_money(booked.cost or 0)}"
            yield f"settled: {tokens:,} tokens instead of the {booked.tokens:,} that were reserved{spent}"
        case effects.Cancel(reservation=booked):
            yield f"reservation of {booked.tokens:,} tokens cancelled: nothing is charged"
        case _:
            return


def _after(step: Step, began: float) -> Iterator[str]:
    match step.effect, step.result:
        case _, effects.ClientGone():
            yield "the client hung up"
        case effects.CountTokens(), effects.Counted(count=count):
            how = f"with {count.encoding}" if count.exact else f"estimated ({count.encoding})"
            partly = ", without what the service keeps" if count.partial else ""
            yield f"counted: {count.tokens:,} tokens in the prompt, {how}{partly}"
        case effects.Reserve(reservation=wanted), effects.Reserved(decision=decision):
            yield from _booking(wanted, decision)
        case effects.WaitUntil(), effects.Done():
            yield "held back until now"
        case effects.WaitInQueue(), effects.Done(now=now):
            yield f"waited in the queue for a backend for {_seconds(now - began)}"
        case effects.Choose(candidates=candidates), effects.Chosen(candidates=chosen, error=error):
            if error is not None:
                yield "a plugin refuses the call"
            elif list(chosen) != list(candidates):
                names = ", ".join(backend.name for backend in chosen) or "nothing"
                yield f"a plugin changes the choice to {names}"
        case effects.Send(attempt=attempt), effects.Answered(status=status) if attempt.failure is None:
            yield f"{attempt.backend.name} answers {status}"
            yield from _spillover(attempt)
        case effects.Send(attempt=attempt), effects.Failed(reason=reason, reused=True):
            yield f"{attempt.backend.name}: {reason}, on a connection that had been idle"
        case effects.Send(attempt=attempt), effects.Failed(fault=Fault.STREAM_OPTIONS):
            name = attempt.backend.name
            yield f"{name} does not take the stream_options that the gateway adds: once more without them"
        case effects.Renew(attempt=attempt), effects.Renewed(is_new=is_new):
            found = "another one was fetched" if is_new else "there is no other one"
            yield f"{attempt.backend.name} refuses the gateway's credential: {found}"
        case effects.Drain(attempt=attempt), effects.Drained(body=None):
            yield f"the failed answer of {attempt.backend.name} did not end in time; its connection is closed"
        case effects.Deliver(), effects.Ended() as end:
            yield _delivery(end)
        case _:
            return


def _spillover(attempt: Attempt) -> Iterator[str]:
    spilled = attempt.spillover
    if spilled is not None:
        why = f", which refused it with {spilled.error}" if spilled.error else ""
        start, end = spilled.start or "the provisioned deployment", spilled.end or "a standard one"
        yield f"Azure spilled it over to {end} from {start}{why}"


def _failed_before(call: Call, skip: Skip, number: int) -> bool:
    """Whether it is passed over for what this very call has just told of it."""
    return any(a.backend.key == skip.backend.key for a in call.attempts[: number - 1])


def _passed_over(skipped: Iterable[Skip]) -> Iterator[str]:
    for skip in skipped:
        again = f" ({_seconds(skip.seconds)} left)" if skip.seconds else ""
        yield f"passes over {skip.backend.name}: {skip.reason}{again}"


def _break(step: Step) -> str:
    if step.break_seconds is None:
        return "no break: it is not the backend's fault"
    text = f"break of {_seconds(step.break_seconds)} on {_place(step.scope)}"
    others = [f"{cls} {_seconds(s)}" for cls, s in (step.breaks or {}).items() if s != step.break_seconds]
    return f"{text} (for others: {', '.join(others)})" if others else text


def _place(scope: Scope | None) -> str:
    if scope is None:
        return "it"
    endpoint, standin = scope[0], scope[1]
    if standin is None:
        return f"all of {endpoint}"
    return f"{standin}@{endpoint}" if standin else endpoint


def _booking(wanted: Reservation, decision: Decision) -> Iterator[str]:
    verb = "reserved" if decision.admitted else "does not fit"
    cost = "" if wanted.cost is None else f", for up to {_money(wanted.cost)}"
    yield f"{verb}: up to {wanted.tokens:,} tokens, prompt and answer{cost}"
    for standing in decision.standings:
        yield f"  {_standing(standing)}"


def _standing(standing: Standing) -> str:
    used = standing.limit - standing.remaining
    where = f" for {standing.deployment}" if standing.deployment is not None else ""
    text = f"of {standing.limit:,} {PER[standing.kind]}{where}, {used:,} taken, {standing.remaining:,} left"
    if standing.in_money:
        per = PER[standing.kind].removeprefix("tokens ")
        taken, left = _money(used), _money(standing.remaining)
        text = f"of a budget of {_money(standing.limit)} {per}, {taken} taken, {left} left"
    if standing.wait > 0:
        fits = f"fits in {_seconds(standing.wait)}" if math.isfinite(standing.wait) else "never fits"
        text += f"; {fits}"
    return text


def _money(units: int) -> str:
    """Write an amount in the currency of ``prices``, with as many digits as a call's cost needs."""
    return f"{units / UNIT:,.6f}".rstrip("0").rstrip(".")


def _delivery(end: effects.Ended) -> str:
    text = "answer complete" if end.complete else f"answer broken off: {end.reason}"
    if end.finish_reason:
        text += f", finish reason {end.finish_reason}"
    if end.service_tier not in (None, "default", "auto"):
        text += f", service tier {end.service_tier}"
    if end.usage is not None:
        text += f"; {end.usage.input_tokens:,} tokens in"
        if end.usage.cached_tokens:
            text += f" ({end.usage.cached_tokens:,} cached)"
        text += f", {end.usage.output_tokens:,} out"
        if end.usage.reasoning_tokens:
            text += f" ({end.usage.reasoning_tokens:,} reasoning)"
    return text


def _session(session: Session) -> str:
    text = f"a session of {session.responses:,} responses, {session.messages_in:,} messages in"
    text += f" and {session.messages_out:,} out"
    return (
        f"{text}; closed by the {session.closed_by} with {session.close_code}" if session.closed_by else text
    )


def _end(call: Call, outcome: Outcome) -> str:
    count = len(call.attempts)
    attempts = "no attempt" if not count else "1 attempt" if count == 1 else f"{count} attempts"
    text = f"end: {outcome.value.replace('_', ' ')}, {attempts}"
    return f"{text}, status {call.status}" if call.status is not None else text


def _offset(seconds: float) -> str:
    return f"{max(0.0, 1000 * seconds):,.0f} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
