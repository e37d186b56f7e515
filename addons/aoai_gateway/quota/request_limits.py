"""Request limits: ceilings for the parameters of one request, and the treatment of higher values.

A ceiling holds for a request without the parameter, too: without `max_tokens` a model may write as much
as it can. So such a request is given the default, or the ceiling where there is no default, with either
action. Of a prompt nothing can be taken away: one that is too long is always rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.wire.errors import invalid_body, parameter_over_limit
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, COMPLETIONS

if TYPE_CHECKING:
    from aoai_gateway.wire.request_body import RequestBody


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one client at one virtual deployment; None is no limit.

    `max_tokens` is the ceiling of a completion, `default_max_tokens` what a request gets that
    names no bound. `clamp` lowers what is too high; else the request is rejected.
    """

    max_tokens: int | None = None
    default_max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    prompt_tokens: int | None = None
    clamp: bool = False

    @property
    def bound_of_unbounded(self) -> int | None:
        """What a request gets that names no bound."""
        return self.max_tokens if self.default_max_tokens is None else self.default_max_tokens


class Change(NamedTuple):
    """A member of a body that is set: what was asked for (None: nothing), and what is given.

    As text, in ASCII, for people and for the response header: `max_tokens 8000->4096`.
    """

    member: str
    asked: int | None
    given: int

    @property
    def edits(self) -> str:
        """The name by which a body's member is edited: the same for all bounds of a completion."""
        return self.member if self.member in ("n", "best_of") else "max_tokens"

    def __str__(self) -> str:
        return f"{self.member} {'unset' if self.asked is None else self.asked}->{self.given}"


NO_LIMITS = RequestLimits()


def apply(limits: RequestLimits, body: RequestBody, prompt_tokens: int | None) -> tuple[Change, ...]:
    """Hold a request to its limits. Returns the changes to be made to its body.

    `prompt_tokens` is the prompt's length; None (not counted) lets any pass. Raises `GatewayError` 400
    that names the parameter and the limit, for the first value that is too high and not to be clamped.
    """
    longest = limits.prompt_tokens
    if longest is not None and prompt_tokens is not None and prompt_tokens > longest:
        raise invalid_body(
            f"The prompt has {prompt_tokens:,} tokens, and you may send at most {longest:,}. Shorten it.",
            code="parameter_over_limit",
        )
    changes: list[Change] = []
    _bound(limits, body, changes)
    n = None
    if body.operation in (CHAT_COMPLETIONS, COMPLETIONS):
        n = _lower("n", body.n, limits.n, limits.clamp, changes)
    if body.operation is COMPLETIONS:
        best_of = _lower("best_of", body.best_of, limits.best_of, limits.clamp, changes)
        if best_of is not None and (body.n if n is None else n) > best_of:
            # No more can be returned than there are candidates: Azure OpenAI answers 400.
            changes = [change for change in changes if change.member != "n"]
            changes.append(Change("n", body.n, best_of))
    return tuple(changes)


def bound_of_response(limits: RequestLimits, asked: int | None) -> int | None:
    """The bound to set for a response of a session that asks for this one (None: for none); None: as it asks.

    Raises `GatewayError` 400 for one that is too high and not to be clamped.
    """
    if asked is not None:
        return _lower("max_output_tokens", asked, limits.max_tokens, limits.clamp, [])
    return limits.bound_of_unbounded


def _bound(limits: RequestLimits, body: RequestBody, changes: list[Change]) -> None:
    key = body.max_tokens_key
    if key is None:
        return
    if body.max_tokens is not None:
        _lower(key, body.max_tokens, limits.max_tokens, limits.clamp, changes)
    elif (given := limits.bound_of_unbounded) is not None:
        changes.append(Change(key, None, given))


def _lower(key: str, asked: int, limit: int | None, clamp: bool, changes: list[Change]) -> int | None:
    """Return the value to set instead of the requested one; None if that is within the limit."""
    if limit is None or asked <= limit:
        return None
    if not clamp:
        raise parameter_over_limit(key, asked, limit)
    changes.append(Change(key, asked, limit))
    return limit
