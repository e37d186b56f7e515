"""Log records without secrets, prompts and terminal commands, from every logger of the process.

Most messages of a gateway process are written by others: mitmproxy, asyncio, plugins, the Redis client. So
they are not cleaned one by one, but at the place where all of them are made: Python's factory of log
records. Of exceptions, type and place are logged. Their messages are left out where they
can quote data, as ``KeyError`` and ``ValueError`` do; those that name a module, a file or an errno stay.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from aoai_gateway.wire.masking import KnownSecrets, known
from aoai_gateway.wire.printing import printable_lines

if TYPE_CHECKING:
    from aoai_gateway.config.models import Config


type Factory = Callable[..., logging.LogRecord]

TELLING = (ImportError, OSError, SyntaxError, NameError, NotImplementedError, MemoryError, RecursionError)
"""Exceptions whose messages are about the program and its machine, not about data."""


class SafeRecords:
    """Makes log records. ``config``: gives the configuration in force, whose secrets are masked."""

    def __init__(
        self,
        make: Factory,
        config: Callable[[], Config | None],
        fetched: Callable[[], Iterable[KnownSecrets]],
    ) -> None:
        self._make = make
        self.config = config
        self.fetched = fetched

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make a record."""
        record = self._make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:
            return record  # logging reports it when the record is formatted
        safe = self._safe(message)
        if safe != message:
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = self._safe(told(record.exc_info[1]))
        return record

    def _safe(self, text: str) -> str:
        config = self.config()
        if config is not None:
            text = known(config.secrets).mask_text(text)
        for secrets in self.fetched():
            text = secrets.mask_text(text)
        return printable_lines(text)


def install(
    config: Callable[[], Config | None], fetched: Callable[[], Iterable[KnownSecrets]] = tuple
) -> None:
    """Have all log records of the process made so; once, however often it is called.

    ``fetched``: gives what masks the secrets that the configuration does not hold.
    """
    factory = logging.getLogRecordFactory()
    if isinstance(factory, SafeRecords):
        factory.config, factory.fetched = config, fetched
    else:
        logging.setLogRecordFactory(SafeRecords(factory, config, fetched))


def told(error: BaseException) -> str:
    """Write an exception as Python does, but for messages that can quote data."""
    chain: dict[int, BaseException] = {}
    each: BaseException | None = error
    while each is not None and id(each) not in chain:
        chain[id(each)] = each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n\nThen:\n\n".join(
        "".join(
            ("Traceback (most recent call last):\n", *traceback.format_tb(one.__traceback__), _named(one))
        )
        for one in reversed(chain.values())
    )


def _named(error: BaseException) -> str:
    name = type(error).__qualname__
    return f"{name}: {error}" if isinstance(error, TELLING) else name


logger = logging.getLogger(__name__)


def log_exception(what: str, error: BaseException) -> None:
    """Log where an exception came from, and ``what`` became of it; not its message, which can quote data."""
    logger.error("%s %s\n%s", type(error).__name__, what, told(error))
