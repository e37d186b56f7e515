"""What a start says: where the gateway listens, and how to try it."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.command_line import PROGRAM
from aoai_gateway.wire.authority import authority, reachable

if TYPE_CHECKING:
    from aoai_gateway.config.loader import Loaded

CHECKOUT = Path(__file__).resolve().parents[3]
"""Where ``gateway.yaml``, ``addons/gateway.py`` and ``tests/`` lie when the package runs from a checkout."""
DEMO_KEY = "demo-key"
"""The client key of the shipped ``gateway.yaml``: public, so it may be shown. No other key ever is."""


class Address(NamedTuple):
    """Where the gateway listens."""

    host: str
    port: int
    tls: bool

    @property
    def url(self) -> str:
        """How a client on this machine reaches it, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://{authority(reachable(self.host), self.port)}"


def own_version() -> str:
    """Return the version that is installed."""
    return importlib.metadata.version(PROGRAM)


def greet(path: Path, loaded: Loaded, address: Address, *, inspector: bool) -> None:
    """Say where it listens and, on a configuration that only simulates, how to try it; on stderr.

    Standard output belongs to mitmproxy's log and to usage records.
    """
    config = loaded.config
    lines = [
        f"{PROGRAM} {own_version()} with {path}",
        f"  listening  {address.url if address.port else 'on a free port, see below'}",
    ]
    if (
        address.port
        and config.client_for_key(DEMO_KEY)
        and all(e.simulated for e in config.aoai.endpoints if e.enabled)
    ):
        body = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'
        insecure = "-k " if address.tls else ""
        lines += [
            "  demo       the endpoints are simulated, so it answers without an Azure account. Try:",
            "",
            f"    curl {insecure}{address.url}/openai/v1/chat/completions -H 'api-key: {DEMO_KEY}' \\",
            f"         -H 'content-type: application/json' -d '{body}'",
            "",
            f'    OpenAI(base_url="{address.url}/openai/v1/", api_key="{DEMO_KEY}")  # pip install openai',
            "",
        ]
    if inspector:
        lines.append("  inspector  its address, with the token that opens it, follows in the log")
    else:
        # In a checkout, ours is not on PATH before the environment is active.
        program = "./run.sh" if (CHECKOUT / "run.sh").is_file() else PROGRAM
        lines.append(f"  inspector  `{program} web` serves the same inside mitmweb")
    print("\n".join(lines), file=sys.stderr, flush=True)
