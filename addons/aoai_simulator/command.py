"""The simulator as a program: `python -m aoai_simulator`.

When its ports are open it prints one line of JSON, `{"urls": {…}, "keys": {…}, "control_url": …}`, and
serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator.server import start
from aoai_simulator.settings import Settings
from aoai_simulator.tokenizer import ByteTokenizer, EncodingTokenizer, Tokenizer

_ENDPOINTS = TypeAdapter(dict[str, SimulatedEndpoint])

DEFAULT_CONFIG = Path("gateway.yaml")


class UsageError(Exception):
    """The command line or a file that it names is wrong; the text names the fault."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulator; returns the exit code: 0 after a signal, 1 if it cannot start, 2 for wrong usage."""
    options = _parser().parse_args(argv)
    try:
        endpoints = read_endpoints(options.config, options.spec)
        return asyncio.run(_serve(endpoints, options))
    except UsageError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"simulator: cannot start: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aoai-gateway simulator", description="An Azure OpenAI that behaves, its faults included."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--config", type=Path, help="take the simulated endpoints of this gateway.yaml (the default)"
    )
    source.add_argument(
        "--spec", type=Path, help='a JSON file, {"name": {"region": …, "deployments": {…}}}; - is stdin'
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port-base",
        type=int,
        default=0,
        metavar="N",
        help="the control plane listens on N, the endpoints on N+1, …; default: free ports",
    )
    parser.add_argument(
        "--key", help="one key for all endpoints; default: a generated one for each (see the printed line)"
    )
    parser.add_argument("--tls-cert", type=Path, help="certificate chain in PEM; the endpoints speak TLS")
    parser.add_argument("--tls-key", type=Path, help="its private key, if not in the same file")
    parser.add_argument("--gzip", action="store_true", help="compress answers for clients that accept it")
    parser.add_argument(
        "--count",
        choices=("bytes", "tiktoken"),
        default="tiktoken",
        help="count tokens with the models' encodings, or a token for every four bytes; the latter is quicker"
        " to start (default: %(default)s)",
    )
    parser.add_argument("--no-log", action="store_true", help="keep no request log (for load tests)")
    parser.add_argument(
        "--burst-seconds",
        type=float,
        default=Settings().burst_seconds,
        help="collect a stream's tokens for so long before they are sent; 0 sends each on its own"
        " (default: %(default)s)",
    )
    return parser


def read_endpoints(config: Path | None, spec: Path | None) -> Mapping[str, SimulatedEndpoint]:
    """The endpoints of a spec file, else of a configuration; raises UsageError if they are wrong."""
    if spec is not None:
        try:
            text = sys.stdin.read() if str(spec) == "-" else spec.read_text("utf-8")
            return _ENDPOINTS.validate_json(text)
        except OSError as error:
            raise UsageError(f"cannot read {spec}: {error.strerror}") from error
        except ValidationError as error:
            raise UsageError(f"{spec}: {error}") from error
    from aoai_gateway.config.loader import ConfigErrors, load

    path = config or DEFAULT_CONFIG
    try:
        endpoints = load(path, env=os.environ).config.simulated_endpoints
    except ConfigErrors as errors:
        raise UsageError(str(errors)) from errors
    if not endpoints:
        raise UsageError(f"{path} has no simulated endpoint")
    return endpoints


def _tiktoken() -> Tokenizer:
    """The models' own encodings; raises UsageError where one is missing."""
    from aoai_gateway.tokens import Counter, load_encodings

    encodings = load_encodings()
    if encodings.problems:
        raise UsageError("; ".join(encodings.problems))
    return EncodingTokenizer(Counter(encodings))


async def _serve(endpoints: Mapping[str, SimulatedEndpoint], options: argparse.Namespace) -> int:
    base = options.port_base
    simulator = await start(
        endpoints,
        host=options.host,
        ports={name: base + 1 + index for index, name in enumerate(endpoints)} if base else None,
        control_port=base,
        keys=dict.fromkeys(endpoints, options.key) if options.key else None,
        tls_certificate=options.tls_cert,
        tls_private_key=options.tls_key,
        tokenizer=_tiktoken() if options.count == "tiktoken" else ByteTokenizer(),
        settings=Settings(
            gzip=options.gzip, log_requests=not options.no_log, burst_seconds=options.burst_seconds
        ),
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ready = {"urls": simulator.urls, "keys": simulator.keys, "control_url": simulator.control_url}
    print(json.dumps(ready), flush=True)
    await stopped.wait()
    await simulator.stop()
    return 0
