"""A simulated AOAI: one port per endpoint, and one for the control plane."""

from __future__ import annotations

import random
import secrets
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator import control
from aoai_simulator.faults import Fault
from aoai_simulator.resource import Resource
from aoai_simulator.settings import Settings
from aoai_simulator.simulator import Simulator
from aoai_simulator.tokenizer import ByteTokenizer, Tokenizer


async def start(
    endpoints: Mapping[str, SimulatedEndpoint],
    *,
    host: str = "127.0.0.1",
    ports: Mapping[str, int] | None = None,
    control_port: int | None = 0,
    keys: Mapping[str, str] | None = None,
    tls_certificate: Path | None = None,
    tls_private_key: Path | None = None,
    faults: Iterable[Fault] = (),
    settings: Settings | None = None,
    tokenizer: Tokenizer | None = None,
    randomness: random.Random | None = None,
) -> Simulator:
    """Start a simulator in the running event loop.

    Every endpoint gets a port: the one in `ports`, else a free one; and a key: the one in `keys`, else
    a generated one. `control_port` None opens no control plane. With `tls_certificate` (PEM, with its
    chain; `tls_private_key` if not in the same file) the endpoints speak TLS; the control plane never
    does. `faults` are queued from the start, `tokenizer` counts tokens (by bytes if it is
    None), `randomness` draws ids. Raises OSError when a port is taken.
    """
    context = None
    if tls_certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls_certificate, tls_private_key)
    source = randomness or random.Random()  # noqa: S311 (request ids, no secrets)
    simulator = Simulator(faults, settings or Settings())
    try:
        for name, spec in endpoints.items():
            key = (keys or {}).get(name) or secrets.token_hex(16)
            resource = Resource(
                name,
                spec,
                key,
                settings=simulator.settings,
                randomness=source,
                tokenizer=tokenizer or ByteTokenizer(),
            )
            simulator.open(resource, host, (ports or {}).get(name, 0), context)
        if control_port is not None:
            simulator.open_control(control.application(simulator), host, control_port)
    except BaseException:
        await simulator.stop()
        raise
    return simulator
