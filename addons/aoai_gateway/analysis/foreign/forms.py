"""The forms that are read, and which of them a row is of."""

from __future__ import annotations

from collections.abc import Iterable

from aoai_gateway.analysis.foreign.azure import GATEWAY_LOG, LLM_LOG, METRICS, OPENAI_LOG
from aoai_gateway.analysis.foreign.form import Form, Unusable
from aoai_gateway.analysis.foreign.litellm import SPEND_LOGS
from aoai_gateway.analysis.foreign.powerproxy import CSV_FILE, LATER_CSV_FILE, TABLE

# A join of both of APIM's tables has the columns of the second one, too.
FORMS = (SPEND_LOGS, CSV_FILE, LATER_CSV_FILE, TABLE, GATEWAY_LOG, LLM_LOG, OPENAI_LOG)

STATISTICS = Unusable(
    "azure-openai-benchmark's statistics",
    frozenset(("run_seconds", "rpm", "tpm")),
    "they are averages of a minute, and hold no calls. aoai-gateway benchmark takes the same options, and "
    "writes a record for each call",
)

UNUSABLE = (STATISTICS, METRICS)

READ = (
    "usage records (lines of JSON), captures, LiteLLM's spend logs, PowerProxy's CSV files, "
    "and logs of API Management and Azure OpenAI (CSV or JSON)"
)
"""What is read, in words."""

MOST_NAMED = 8
"""Columns of an unknown form that are named."""


def form_of(columns: Iterable[str]) -> Form | Unusable | None:
    """Return the form of a row with these columns; None for a row of an unknown form."""
    found = frozenset(columns)
    return next((form for form in (*FORMS, *UNUSABLE) if form.columns <= found), None)


def named(columns: Iterable[str]) -> str:
    """Write the columns of an unknown form, the first ones."""
    every = [each[:40] for each in columns]
    rest = len(every) - MOST_NAMED
    return ", ".join(every[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
