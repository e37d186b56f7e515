"""What HTTP/2 to a backend costs mitmproxy, beside HTTP/1.1: CPU per call.

    .venv/bin/python tests/bench/http2.py [--rounds 6] [--seconds 2.5]

Two bare ``mitmdump`` stand before the same answers over TLS, one of which is told to speak HTTP/2 there. Both
run on the first core; upstreams and load share the second. Clients speak HTTP/1.1, as SDKs do to the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
import upstream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from proxy import BIN, CHAT, CLASSIC, KEY, cpu_seconds, free_port, process, ratios
from streams import certificate

PROTOCOLS = ("http/1.1", "h2")

ADDON = """
def server_connect(data):
    data.server.alpn_offers = ({protocol!r}.encode(),)

def responseheaders(flow):
    flow.response.stream = True
"""

HEADERS = [
    (":status", "200"),
    ("content-type", "application/json"),
    ("content-length", str(len(upstream.ANSWER))),
]


class Http2(asyncio.Protocol):
    """One connection that answers each request with the same."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.h2.send_headers(event.stream_id, HEADERS)
                self.h2.send_data(event.stream_id, upstream.ANSWER, end_stream=True)
        self.transport.write(self.h2.data_to_send())


async def serve(port: int, certificate_file: str, protocol: str) -> None:
    """Be an upstream."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file)
    context.set_alpn_protocols([protocol])
    kind = Http2 if protocol == "h2" else upstream.Upstream
    server = await asyncio.get_running_loop().create_server(kind, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


async def measure(rounds: int, seconds: float, folder: Path) -> None:
    """Start everything, go through the rounds, print."""
    file = str(certificate(folder))
    pids, ports = {}, {}
    with contextlib.ExitStack() as stack:
        for protocol in PROTOCOLS:
            up, port = free_port(), free_port()
            name = protocol.replace("/", "")
            addon = folder / f"{name}.py"
            addon.write_text(ADDON.format(protocol=protocol))
            server = [sys.executable, __file__, "--serve", str(up), file, protocol]
            stack.enter_context(process(server, up, 1, folder / f"up-{name}.log"))
            command = [
                BIN / "mitmdump", "-q", "--mode", f"reverse:https://127.0.0.1:{up}", "-p", str(port),
                "--listen-host", "127.0.0.1", "--ssl-insecure", "-s", addon,
            ]  # fmt: skip
            pids[protocol] = stack.enter_context(process(command, port, 0, folder / f"{name}.log"))
            ports[protocol] = port
        os.sched_setaffinity(0, {1})
        call = load.request(CLASSIC, CHAT, KEY)
        cpu: dict[str, list[float]] = {protocol: [] for protocol in PROTOCOLS}
        for _ in range(rounds):
            for protocol, port in ports.items():
                before = cpu_seconds(pids[protocol])
                done = await load.run(port, call, connections=16, seconds=seconds)
                assert not done.failures, f"{protocol}: {done.failures} failures"
                cpu[protocol].append(1e6 * (cpu_seconds(pids[protocol]) - before) / done.answers)
        ratios("CPU per call", cpu, PROTOCOLS[0], "µs")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument(
        "--serve", nargs=3, metavar=("PORT", "CERTIFICATE", "PROTOCOL"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.serve:
        port, file, protocol = args.serve
        asyncio.run(serve(int(port), file, protocol))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args.rounds, args.seconds, Path(folder)))


if __name__ == "__main__":
    main()
