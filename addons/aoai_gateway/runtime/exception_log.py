"""The log of unexpected exceptions."""

from __future__ import annotations

import logging

from aoai_gateway.runtime.log_records import told

logger = logging.getLogger(__name__)


def log_exception(what: str, error: BaseException) -> None:
    """Log where an exception came from, and ``what`` became of it; not its message, which can quote data."""
    logger.error("%s %s\n%s", type(error).__name__, what, told(error))
