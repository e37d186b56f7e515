"""A gateway and its simulator for a whole module: what costs time in these tests is starting processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.certificates import Certificates
from tests.e2e.processes import Gateway, Host, Simulator
from tests.e2e.settings import SPEC, configuration


class Pair(NamedTuple):
    """A gateway, and the simulator that plays its endpoints."""

    gateway: Gateway
    simulator: Simulator


@contextmanager
def running(
    host: Host,
    folder: Path,
    home: Path,
    *,
    spec: Mapping[str, Any] = SPEC,
    tls: Certificates | None = None,
    simulator_tls: Certificates | None = None,
    addons: Sequence[Path] = (),
    options: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    **sections: Any,
) -> Iterator[Pair]:
    """Run a gateway before a simulator; at the end it must stop in an orderly way.

    Args:
        host: what the gateway runs in.
        folder: for everything that the processes write.
        home: the gateway's home folder.
        spec: the simulator's endpoints.
        tls: what the gateway shows its clients; None is plain HTTP.
        simulator_tls: the same for the simulator's endpoints.
        addons: other scripts to load beside the gateway.
        options: mitmproxy's own options.
        env: on top of this process's environment.
        sections: sections of the gateway's configuration, see `configuration`.

    """
    words = (
        ["--tls-cert", simulator_tls.certificate, "--tls-key", simulator_tls.private_key]
        if simulator_tls
        else []
    )
    simulator = Simulator(spec, folder, arguments=words, ca=simulator_tls.ca if simulator_tls else None)
    try:
        if tls:
            paths = {"certificate": str(tls.certificate), "private_key": str(tls.private_key)}
            sections["listen"] = {**paths, **sections.get("listen", {})}
        if simulator_tls:
            sections["aoai"] = {"trusted_ca": str(simulator_tls.ca), **sections.get("aoai", {})}
        gateway = Gateway(
            host,
            configuration(simulator.urls, simulator.keys, **sections),
            folder,
            home=home,
            addons=addons,
            arguments=options,
            env=env,
            ca=tls.ca if tls else None,
        )
        try:
            yield Pair(gateway, simulator)
            code = gateway.stop()
            assert code == 0, f"{gateway.name} ended with {code} after SIGTERM\n{gateway.log}"
        finally:
            gateway.kill()
    finally:
        simulator.kill()
