"""Sends OTLP's messages to a collector, by HTTP, as OpenTelemetry's environment variables ask for.

``OTEL_EXPORTER_OTLP_HEADERS``, ``…_CERTIFICATE``, ``…_CLIENT_CERTIFICATE``, ``…_CLIENT_KEY`` and
``…_COMPRESSION`` hold; for one signal alone, so do ``OTEL_EXPORTER_OTLP_TRACES_…`` and ``…_METRICS_…``.
(OpenTelemetry's specification, "OTLP Exporter Configuration".)
"""

from __future__ import annotations

import gzip
import time
import zlib
from typing import TYPE_CHECKING
from urllib.parse import unquote

import requests

from aoai_gateway.usage.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT_SECONDS = 10.0
"""For one export, with all that is tried again."""

TRY_AGAIN = frozenset({429, 502, 503, 504})
"""Answers after which OTLP's specification wants the same to be sent again."""

FIRST_PAUSE_SECONDS = 1.0
"""Before it is; the next one is twice as long."""

_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class Collector:
    """A collector's URL for one signal, ``traces`` or ``metrics``; used by one thread.

    ``environment``: OpenTelemetry's variables. ``headers`` come on top of theirs, and win.
    """

    def __init__(
        self,
        endpoint: str,
        signal: str,
        environment: Mapping[str, str],
        headers: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/{signal}"
        self._signal, self._sleep, self._clock = signal, sleep, clock

        def said(name: str) -> str:
            return environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}") or environment.get(
                f"OTEL_EXPORTER_OTLP_{name}", ""
            )

        self._session = requests.Session()
        self._session.headers["user-agent"] = "aoai-gateway"
        self._session.headers["content-type"] = "application/x-protobuf"
        self._session.headers.update(members(said("HEADERS")))
        self._session.headers.update(headers)
        self._verify: str | bool = said("CERTIFICATE") or True
        own, key = said("CLIENT_CERTIFICATE"), said("CLIENT_KEY")
        self._cert = ((own, key) if key else own) if own else None
        self._compress = _COMPRESS.get(said("COMPRESSION").strip().casefold())
        if self._compress is not None:
            self._session.headers["content-encoding"] = said("COMPRESSION").strip().casefold()

    def send(self, body: bytes) -> None:
        """Send a message. Raises SinkError if it was not taken within the time for one export."""
        end, pause = self._clock() + TIMEOUT_SECONDS, FIRST_PAUSE_SECONDS
        body = body if self._compress is None else self._compress(body)
        while True:
            status, wanted = self._post(body, end - self._clock())
            if status is not None and 200 <= status < 300:
                return
            wait = wanted if wanted is not None else pause
            if (status is not None and status not in TRY_AGAIN) or self._clock() + wait >= end:
                answer = f": {status}" if status is not None else ""
                raise SinkError(f"the collector did not take the {self._signal}{answer}")
            self._sleep(wait)
            pause *= 2

    def _post(self, body: bytes, seconds: float) -> tuple[int | None, float | None]:
        """Give the status of the answer, and for how long to wait if it says so; None without an answer."""
        try:
            answer = self._session.post(
                self._url,
                data=body,
                timeout=seconds,
                verify=self._verify,
                cert=self._cert,
                allow_redirects=False,
            )
        except requests.RequestException:
            return None, None
        wanted = answer.headers.get("retry-after", "")
        return answer.status_code, float(wanted) if wanted.isascii() and wanted.isdigit() else None

    def close(self) -> None:
        """Close its connections."""
        self._session.close()


def members(text: str) -> dict[str, str]:
    """Read ``name=value,name=value``, as OpenTelemetry's variables have it; values are percent-encoded."""
    pairs = (each.partition("=") for each in text.split(",") if "=" in each)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs if name.strip()}
