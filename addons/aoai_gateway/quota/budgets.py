"""Budgets in money, as quotas: what a client may spend, in whole units that the stores count like tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.quota.quotas import Budget

if TYPE_CHECKING:
    from aoai_gateway.config.models import Policy

ACCOUNT = "cost/"
"""The name of the account; no virtual deployment's name can hold a slash."""

UNIT = 1_000_000
"""By which money, in the currency of ``prices``, is multiplied to be counted."""


def budget_of(policy: Policy) -> Budget | None:
    """Return what a client may spend; None without a limit."""
    day, month = policy.max_cost_per_day, policy.max_cost_per_month
    if day is None and month is None:
        return None
    return Budget(ACCOUNT, tokens_per_day=_counted(day), tokens_per_month=_counted(month))


def _counted(money: float | None) -> int | None:
    return None if money is None else round(money * UNIT)
