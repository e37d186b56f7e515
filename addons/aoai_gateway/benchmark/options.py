"""The command line of `benchmark`: the options of Azure's azure-openai-benchmark, and some more."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, override
from urllib.parse import urlsplit

from aoai_gateway.benchmark.plan import ARRIVALS, PROFILES, Consumer
from aoai_gateway.command_line import whole_number

CLIENTS = 800

FASTEST = 600_000.0
"""Calls per minute; one process makes no more."""

WHOLE = whole_number(1, 10**9 - 1, "whole number above 0")


class _Parser(argparse.ArgumentParser):
    @override
    def parse_args(self, *words: Any) -> argparse.Namespace:  # type: ignore[override]  # fewer ways to call it
        args: argparse.Namespace = super().parse_args(*words)
        if fault := _fault(args):
            self.error(fault)
        return args


def parser() -> argparse.ArgumentParser:
    """Make the parser, which also checks that options fit together."""
    made = _Parser(
        prog="aoai-gateway benchmark",
        description="Put a load on a gateway or an Azure OpenAI, at a rate that its answers do not change.",
        allow_abbrev=False,
    )
    _add_target(made)
    _add_load(made)
    _add_calls(made)
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="append a usage record of each call")
    made.add_argument(
        "-f", "--output-format", choices=("human", "jsonl"), default="human", help="default: human"
    )
    made.add_argument(
        "-w",
        "--aggregation-window",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="of the figures while it runs (default: 60)",
    )
    made.add_argument("--seed", type=int, help="for the same sizes and times again")
    return made


def _add_target(made: argparse.ArgumentParser) -> None:
    made.add_argument("url", metavar="URL", type=_url, help="http://127.0.0.1:8080, or a resource's endpoint")
    made.add_argument("-e", "--deployment", required=True, help="the deployment, virtual or not")
    made.add_argument("-a", "--api-version", metavar="VERSION", help="of a classic path (default: v1)")
    made.add_argument(
        "-k",
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="the environment variable with the key (default: OPENAI_API_KEY)",
    )
    made.add_argument("--bearer", action="store_true", help="send keys as tokens: Authorization: Bearer …")
    made.add_argument("--ca", metavar="FILE", help="an authority to trust, in place of the system's")
    made.add_argument("--priority", metavar="CLASS", help="the priority class to ask the gateway for")
    made.add_argument(
        "--consumer",
        type=_consumer,
        action="append",
        default=[],
        metavar="NAME,key=ENV[,share=2][,priority=CLASS]",
        help="a client in whose name a share of the calls is made; may be repeated",
    )


def _add_load(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "-r",
        "--rate",
        type=_rates,
        metavar="RPM",
        help="calls per minute; 60,120,240: one after the other",
    )
    made.add_argument(
        "-d",
        "--duration",
        type=_positive,
        metavar="SECONDS",
        help="for each rate (default: until Ctrl-C, which waits for the answers)",
    )
    made.add_argument("-n", "--requests", type=WHOLE, metavar="N", help="the most calls")
    made.add_argument("--arrivals", choices=ARRIVALS, default="poisson", help="default: poisson")
    made.add_argument(
        "-c",
        "--clients",
        type=WHOLE,
        default=CLIENTS,
        metavar="N",
        help=f"the most calls at a time; others wait, and their time counts (default: {CLIENTS})",
    )
    made.add_argument(
        "--records",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="usage records: calls get their sizes, and without --rate come when they came",
    )
    made.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="so many times as fast")


def _add_calls(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "-s",
        "--shape-profile",
        choices=(*PROFILES, "custom"),
        default="balanced",
        help="; ".join(f"{name}: {shape.prompt} in, {shape.most} out" for name, shape in PROFILES.items()),
    )
    made.add_argument("-p", "--context-tokens", type=WHOLE, metavar="N", help="of the prompt, if custom")
    made.add_argument("-m", "--max-tokens", type=WHOLE, metavar="N", help="of the answer, if custom")
    made.add_argument("-i", "--completions", type=WHOLE, default=1, metavar="N", help="answers to each call")
    for name in ("frequency-penalty", "presence-penalty", "temperature", "top-p"):
        made.add_argument(f"--{name}", type=float, metavar="X")
    made.add_argument(
        "-t",
        "--retry",
        choices=("none", "exponential"),
        default="none",
        help="after a 429: none, or as it says and for 60 s at most",
    )
    made.add_argument("--no-stream", action="store_true", help="ask for answers as a whole")
    made.add_argument("--cached-prompts", action="store_true", help="let all prompts begin alike")
    made.add_argument(
        "--timeout", type=_positive, default=600.0, metavar="SECONDS", help="of a call (default: 600)"
    )


def _fault(args: argparse.Namespace) -> str | None:
    if args.rate is None and not args.records:
        return "say --rate, calls per minute, or --records, to send what was recorded"
    if args.rate is not None and len(args.rate) > 1 and args.duration is None:
        return "several rates need a --duration for each"
    if args.shape_profile == "custom" and args.context_tokens is None and not args.records:
        return "--shape-profile custom needs --context-tokens"
    if args.speed != 1.0 and args.rate is not None:
        return "--speed is of recorded times, which --rate replaces"
    return None


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL: http://127.0.0.1:8080")
    # As SDKs are given it.
    return text.rstrip("/").removesuffix("/v1").removesuffix("/openai")


def _positive(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return found


def _rates(text: str) -> list[float]:
    rates = [_positive(each) for each in text.split(",")]
    if max(rates) > FASTEST:
        raise argparse.ArgumentTypeError(f"{max(rates):,.0f} a minute are more than one process makes")
    return rates


def _consumer(text: str) -> Callable[[Callable[[str], str]], Consumer]:
    name, *rest = text.split(",")
    said = dict(part.split("=", 1) for part in rest if "=" in part)
    known = "key" in said and len(said) == len(rest) and said.keys() <= {"key", "share", "priority"}
    if not name or not known:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME,key=ENV[,share=2][,priority=CLASS]")
    share = _positive(said.get("share", "1"))
    return lambda key_of: Consumer(name, key_of(said["key"]), share, said.get("priority"))
