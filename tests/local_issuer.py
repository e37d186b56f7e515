"""An issuer of tokens on this machine: its keys rotate, and it can be slow, refuse or never answer."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "api://aoai-gateway"
TENANT = "7e1f0000-0000-4000-8000-000000000001"

_made: list[rsa.RSAPrivateKey] = []


def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Return one of a few keys that are made once for all tests; it takes a while."""
    while len(_made) <= number:
        _made.append(rsa.generate_private_key(65537, 2048))
    return _made[number]


class LocalIssuer:
    """Serves a metadata document and a key set by http on loopback, and signs tokens."""

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {"key-0": rsa_key(0)}
        """The published ones, by id."""
        self.kid = "key-0"
        """The one that signs."""
        self.status = 200
        self.delay = 0.0
        self.goes_on = threading.Event()
        """While it is not set, no answer is given."""
        self.goes_on.set()
        self.hangs = False
        self.document: bytes | None = None
        """Served instead of the key set."""
        self.named: str | None = None
        """What the metadata call the issuer, if not itself."""
        self.asked: list[str] = []
        self._over = threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                issuer._answer(self)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/realms/test"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        if self.hangs:
            self._over.wait(60)
            return
        time.sleep(self.delay)
        self.goes_on.wait(60)
        if handler.path.endswith("/.well-known/openid-configuration"):
            metadata = {"issuer": self.named or self.url, "jwks_uri": f"{self.url}/keys"}
            content = json.dumps(metadata).encode()
        else:
            content = self.document if self.document is not None else json.dumps(self.jwks()).encode()
        handler.send_response(self.status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return sum(path.endswith("/keys") for path in self.asked)

    def rotate(self) -> None:
        """Sign with a new key, and publish it beside the others."""
        number = len(self.keys)
        self.kid = f"key-{number}"
        self.keys[self.kid] = rsa_key(number)

    def jwks(self) -> dict[str, Any]:
        """Return the published keys."""
        return {"keys": [{**_public(key), "kid": kid, "use": "sig"} for kid, key in self.keys.items()]}

    def pem(self) -> bytes:
        """Return the public key that everybody can read."""
        public = self.keys[self.kid].public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return public.public_bytes(serialization.Encoding.PEM, form)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return what a good token says; None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "sub": "subject-1",
            "oid": "object-1",
            "azp": "app-1",
            "tid": TENANT,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Sign a token."""
        key = self.keys[self.kid]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(self.claims(**changes), key, algorithm, {"kid": self.kid, **(headers or {})})

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """Put a token together as no library would."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "alg": "RS256"}
    return jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
