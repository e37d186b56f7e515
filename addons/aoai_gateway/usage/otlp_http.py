"""Sends OTLP's messages to a collector, by HTTP, as OpenTelemetry's environment variables ask for.

``OTEL_EXPORTER_OTLP_…`` hold: ``HEADERS``, ``CERTIFICATE``, ``CLIENT_CERTIFICATE``, ``CLIENT_KEY``,
``COMPRESSION`` and ``TIMEOUT``; for one signal, so do ``OTEL_EXPORTER_OTLP_TRACES_…`` and ``…_METRICS_…``
(OpenTelemetry's specification, "OTLP Exporter Configuration"). Where to, the configuration alone says: its
key must not go elsewhere. The SDK's exporters take spans of the SDK, and no message.
"""

from __future__ import annotations

import gzip
import logging
import os
import time
import zlib
from typing import TYPE_CHECKING

import requests
from opentelemetry.util.re import parse_env_headers

from aoai_gateway.usage.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT_SECONDS, LEAST_TIMEOUT_SECONDS, MOST_TIMEOUT_SECONDS = 10.0, 1.0, 30.0
"""The time for one export, with all that is tried again."""

LEAST_SECONDS = 0.1
"""The least time of a request, when a pause took longer than it should have."""

TRY_AGAIN = frozenset({429, 502, 503, 504})
"""Answers after which OTLP's specification wants the same to be sent again."""

FIRST_PAUSE_SECONDS = 1.0
"""Before it is; the next one is twice as long."""

_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}

logger = logging.getLogger(__name__)

# It would write a header that it cannot read into the log: a key, most likely.
logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)


class Collector:
    """A collector's URL for one signal, ``traces`` or ``metrics``; used by one thread.

    ``headers`` come on top of the environment's, and win.
    """

    def __init__(
        self,
        endpoint: str,
        signal: str,
        headers: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/{signal}"
        self._signal, self._sleep, self._clock = signal, sleep, clock

        def said(name: str) -> str:
            of_signal = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", "").strip()
            return of_signal or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

        self._session = requests.Session()
        self._session.headers["user-agent"] = "aoai-gateway"
        self._session.headers["content-type"] = "application/x-protobuf"
        found = parse_env_headers(said("HEADERS"), liberal=True)
        if len(found) < sum(bool(each.strip()) for each in said("HEADERS").split(",")):
            logger.warning("OTEL_EXPORTER_OTLP_HEADERS: what cannot be read of it is not sent.")
        self._session.headers.update(found)
        self._session.headers.update(headers)
        self._verify: str | bool = said("CERTIFICATE") or True
        own, key = said("CLIENT_CERTIFICATE"), said("CLIENT_KEY")
        self._cert = ((own, key) if key else own) if own else None
        self._seconds = _seconds(said("TIMEOUT"))
        compression = said("COMPRESSION").casefold()
        self._compress = _COMPRESS.get(compression)
        if self._compress is not None:
            self._session.headers["content-encoding"] = compression

    def send(self, body: bytes) -> None:
        """Send a message. Raises SinkError if it was not taken within the time for one export."""
        end, pause = self._clock() + self._seconds, FIRST_PAUSE_SECONDS
        body = body if self._compress is None else self._compress(body)
        while True:
            outcome, wanted = self._post(body, max(end - self._clock(), LEAST_SECONDS))
            if outcome in range(200, 300):
                return
            wait = wanted if wanted is not None else pause
            is_final = isinstance(outcome, int) and outcome not in TRY_AGAIN
            if is_final or self._clock() + wait >= end:
                raise SinkError(f"the collector did not take the {self._signal}: {outcome}")
            self._sleep(wait)
            pause *= 2

    def _post(self, body: bytes, seconds: float) -> tuple[int | str, float | None]:
        """Return the answer's status, or the error without one; and for how long to wait, if it says so."""
        try:
            answer = self._session.post(
                self._url,
                data=body,
                timeout=seconds,
                verify=self._verify,
                cert=self._cert,
                allow_redirects=False,
            )
        except (OSError, ValueError) as error:
            # Those of requests, and what it lets through: no such certificate, a header beyond Latin-1.
            return type(error).__name__, None
        wanted = answer.headers.get("retry-after", "")
        return answer.status_code, float(wanted) if wanted.isascii() and wanted.isdigit() else None

    def close(self) -> None:
        """Close its connections."""
        self._session.close()


def _seconds(milliseconds: str) -> float:
    """Read a time-out, which the specification has in milliseconds."""
    if not (milliseconds.isascii() and milliseconds.isdigit()):
        return TIMEOUT_SECONDS
    return min(max(int(milliseconds) / 1000, LEAST_TIMEOUT_SECONDS), MOST_TIMEOUT_SECONDS)
