"""Hosts and ports as URLs have them (RFC 3986 §3.2)."""

from __future__ import annotations

_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing binds here)


def authority(host: str, port: int | None = None) -> str:
    """Return ``host:port``, or only the host; an IPv6 address is in brackets."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def reachable(host: str) -> str:
    """Return a host by which a client on this machine reaches what listens on `host`, or on every address."""
    return _EVERY_ADDRESS.get(host, host)
