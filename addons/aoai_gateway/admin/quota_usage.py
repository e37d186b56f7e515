"""How every client's quotas stand, without booking anything."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from aoai_gateway.quota.effective_policy import quotas_of
from aoai_gateway.quota.quotas import UNIT, Decision, Reservation, budget_of

if TYPE_CHECKING:
    from aoai_gateway.config.models import Client
    from aoai_gateway.quota.quotas import Standing
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Questions to a shared store that are under way together: calls must not queue behind displays."""

SECONDS = 2.0
"""Seconds that all of them may take; a client without an answer by then is shown without quotas."""


async def standings(gateway: Gateway) -> dict[str, list[dict[str, Any]]]:
    """Return each client's quotas, by name, as `snapshot` documents them."""
    found: dict[str, list[dict[str, Any]]] = {}
    if gateway.written is not None:
        clients = iter(gateway.written.clients)
        try:
            async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
                # They share one iterator, and each takes the next client from it.
                for _ in range(AT_ONCE):
                    group.create_task(_ask(gateway, clients, found))
        except TimeoutError:
            logger.debug("The quotas of %d clients were asked for in vain.", len(found))
    return found


def standings_at_once(gateway: Gateway) -> dict[str, list[dict[str, Any]]] | None:
    """Return the same where the store answers at once; None where it must be asked over a network."""
    found: dict[str, list[dict[str, Any]]] = {}
    for client in gateway.written.clients if gateway.written is not None else ():
        question = _question(client)
        answer = gateway.state.peek(question, gateway.unix_time()) if question is not None else None
        if isinstance(answer, Coroutine):
            answer.close()
            return None
        found[client.name] = (
            [_quota(each) for each in answer.standings] if isinstance(answer, Decision) else []
        )
    return found


async def _ask(gateway: Gateway, clients: Any, found: dict[str, list[dict[str, Any]]]) -> None:
    for client in clients:
        found[client.name] = await _of(gateway, client)


async def _of(gateway: Gateway, client: Client) -> list[dict[str, Any]]:
    question = _question(client)
    if question is None:
        return []
    answer = gateway.state.peek(question, gateway.unix_time())
    decision = answer if isinstance(answer, Decision) else await answer
    return [_quota(standing) for standing in decision.standings]


def _question(client: Client) -> Reservation | None:
    budget = budget_of(client)
    quotas = (*quotas_of(client), *([budget] if budget is not None else ()))
    if not quotas:
        return None
    return Reservation(f"status of {client.name}", client.name, quotas, tokens=0, requests=0)


def _quota(standing: Standing) -> dict[str, Any]:
    deployment, kind = standing.deployment, standing.kind.value
    limit: float = standing.limit
    left: float = standing.remaining
    if standing.in_money:
        deployment, kind = None, kind.replace("tokens", "cost")
        limit, left = limit / UNIT, left / UNIT
    return {
        "deployment": deployment,
        "kind": kind,
        "limit": limit,
        "used": limit - left,
        "remaining": left,
        "reset_seconds": None if math.isinf(standing.reset) else round(standing.reset, 1),
    }
