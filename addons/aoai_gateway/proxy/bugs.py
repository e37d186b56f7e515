"""What is logged of an exception that should not have been."""

from __future__ import annotations

import logging
import traceback

logger = logging.getLogger(__name__)


def log_bug(what: str, error: BaseException) -> None:
    """Log where an exception came from, and ``what`` became of it; not its message, which can quote data."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %s\nTraceback (most recent call last):\n%s", type(error).__name__, what, frames)
