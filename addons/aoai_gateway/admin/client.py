"""The client of a running gateway's admin listener, for the terminal's commands."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import SplitResult, urlsplit

DEFAULT_URL = "http://127.0.0.1:8090"
TOKEN_VARIABLE = "AOAI_GATEWAY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable is no secret
SECONDS = 10.0


class AdminError(Exception):
    """The gateway did not answer, or refused; the message names a remedy."""


class AdminClient:
    """One gateway's admin listener. ``token``: its token; None without one.

    :raises AdminError: the address is not one.
    """

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._where = _split(url)

    def status(self) -> dict[str, Any]:
        """Return the state, as :mod:`~aoai_gateway.admin.snapshot` documents it. Raises AdminError."""
        return self._ask("GET", "/api/status")

    def open_break(self, name: str, seconds: float, reason: str = "") -> str:
        """Open a break on a backend or endpoint; gives what was done. Raises AdminError."""
        return self._do("/api/breaks/open", {"name": name, "seconds": seconds, "reason": reason})

    def close_break(self, name: str | None) -> str:
        """Close the breaks of a backend or endpoint, or (None) all. Returns a sentence about the action.
        Raises AdminError."""
        return self._do("/api/breaks/close", {"name": name} if name is not None else {})

    def switch(self, kind: str, name: str, *, on: bool) -> str:
        """Switch an endpoint, standin or client; gives what was done. Raises AdminError."""
        return self._do("/api/switch", {"kind": kind, "name": name, "on": on})

    def _do(self, path: str, document: dict[str, Any]) -> str:
        return str(self._ask("POST", path, document)["done"])

    def _ask(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"accept": "application/json"}
        body = None
        if document is not None:
            body = json.dumps(document)
            headers["content-type"] = "application/json"
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        where = self._where
        secure = where.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(where.hostname or "", where.port, timeout=SECONDS)
        try:
            connection.request(method, where.path.rstrip("/") + path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(
                f"no gateway's status page answers at {self.url} ({reason}). "
                "Is it running, and is its section admin on this address? --url names another."
            ) from None
        finally:
            connection.close()
        return self._read(answer.status, content)

    def _read(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
            if status < 300 and isinstance(found, dict):
                return found
            message = found["error"]["message"]
        except (ValueError, LookupError, TypeError):
            raise AdminError(
                f"the server at {self.url} is not a gateway's status page (status {status})."
            ) from None
        if status == 401:
            raise AdminError(f"{message} Set it as {TOKEN_VARIABLE}.")
        raise AdminError(str(message))


def _split(url: str) -> SplitResult:
    try:
        where = urlsplit(url)
        good = (
            where.scheme in ("http", "https")
            and bool(where.hostname)
            and (where.port is None or where.port > 0)
        )
    except ValueError:
        good = False
    if not good:
        raise AdminError(f"--url {url}: write it like {DEFAULT_URL}")
    return where
