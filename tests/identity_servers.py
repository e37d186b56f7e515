"""The identity endpoints of Azure, played on this machine: IMDS, and the token exchange of Entra ID.

Like the real ones they answer with JSON; what a test makes of ``behave`` decides how.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


def jwt(**claims: Any) -> str:
    """Make what looks like a token of Entra ID."""
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
    encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJlLW9mLXRlc3Rz"])


class IdentityServer:
    """Gives tokens. ``status``: instead of one; ``seconds``: their lifetime; ``delay``: before an answer."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.status = 200
        self.seconds = 3600.0
        self.delay = 0.0
        self.hangs = False
        self.asked: list[dict[str, str]] = []
        self.given: list[str] = []
        self._over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self, dict(parse_qs(urlsplit(self.path).query)))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                server._answer(self, dict(parse_qs(body)))

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        host = "localhost" if tls else "127.0.0.1"
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        self.asked.append({"path": urlsplit(handler.path).path, **{name: v[0] for name, v in query.items()}})
        if self.hangs:
            self._over.wait(60)
            return
        time.sleep(self.delay)
        if self.status != 200:
            body = {"error": "failed", "error_description": "AADSTS70000: it does not want to."}
        else:
            token = jwt(
                aud=query.get("resource", ["?"])[0], n=len(self.given), exp=time.time() + self.seconds
            )
            self.given.append(token)
            body = {
                "access_token": token,
                "expires_in": str(int(self.seconds)),
                "expires_on": str(int(time.time() + self.seconds)),
                "resource": query.get("resource", [""])[0],
                "token_type": "Bearer",
            }
        content = json.dumps(body).encode()
        handler.send_response(self.status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


type MakeServer = Callable[..., IdentityServer]
