"""``aoai-gateway rerun FILE``: make a captured session's calls again, and show the differences."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from mitmproxy import flowfilter
from mitmproxy.flow import Flow

from aoai_gateway.command_line import UsageError, parser_of, whole_number
from aoai_gateway.rerun import report
from aoai_gateway.rerun.answers import Verdict, compare
from aoai_gateway.rerun.calls import CaptureError, Session, read_session
from aoai_gateway.rerun.case_set import SetError, read_set
from aoai_gateway.rerun.sending import Gateway, UnreachableError, send_all
from aoai_gateway.rerun.set_run import PriceError, read_prices, run_set, tell
from aoai_gateway.wire.targets import DEPLOYMENT_NAME

LOCAL = "http://127.0.0.1:8080"
KEY_VARIABLE = "AOAI_GATEWAY_KEY"
CONCURRENCY = 4

POSITIVE = whole_number(1, 999_999, "number from 1 on")


class RunError(Exception):
    """The run can't be made; the text gives the reason."""


def main(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Run one command line (without the command's name); returns the exit code.

    0: the run was made; 1: it could not be, a case of a set failed, or it was to be strict and a call failed
    or is different. Raises UsageError.
    """
    try:
        return _main(argv, env)
    except RunError as error:
        print(f"aoai-gateway: {error}", file=sys.stderr)
        return 1


def _main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    if (args.file is None) is (args.set is None):
        raise UsageError("name a captured session, or a set of cases with --set FILE")
    key = env.get(args.key_env)
    if not key:
        raise UsageError(
            f"the client's key is read from the environment: set {args.key_env}, or name another variable "
            "with --key-env"
        )
    if args.set is not None:
        return asyncio.run(_run_set(args, Gateway(args.to, key, args.ca)))
    try:
        session = read_session(args.file, deployment=args.deployment, limit=args.limit, wanted=args.filter)
    except CaptureError as error:
        raise RunError(str(error)) from None
    if not session.calls:
        found = report.left_out(session.left_out)
        raise RunError(f"{args.file} has no calls to make again{f': {found}' if found else ''}.")
    rows = asyncio.run(_run(args, session, Gateway(args.to, key, args.ca)))
    bad = any(row.comparison.verdict is not Verdict.SAME for row in rows)
    return 1 if args.strict and bad else 0


async def _run_set(args: argparse.Namespace, gateway: Gateway) -> int:
    try:
        cases = read_set(args.set)
        prices = read_prices(args.prices) if args.prices is not None else {}
    except (SetError, PriceError) as error:
        raise RunError(str(error)) from None
    deployment = args.deployment or cases.deployment or ""
    if args.deployment:
        bodies = ({**case.body, "model": args.deployment} for case in cases.cases)
        chosen = zip(cases.cases, bodies, strict=True)
        cases = replace(cases, cases=tuple(replace(case, body=body) for case, body in chosen))
    if not deployment and any("model" not in case.body for case in cases.cases):
        raise RunError(f"{args.set} names no deployment; say where it is to run: --deployment NAME")
    if not cases.cases:
        raise RunError(f"{args.set} has no cases.")
    results = run_set(cases, gateway, deployment=deployment, prices=prices, concurrency=args.concurrency)
    try:
        found = await tell(results, _say, as_document=args.json)
    except UnreachableError as error:
        raise _unreachable(gateway, error) from None
    return 0 if all(result.passed for result in found) else 1


def _unreachable(gateway: Gateway, error: UnreachableError) -> RunError:
    return RunError(f"no gateway at {gateway.url}: {error}. Is it running? Else say where: --to URL")


async def _run(args: argparse.Namespace, session: Session, gateway: Gateway) -> list[report.Row]:
    rows: list[report.Row] = []
    say: Callable[[str], None] = (lambda line: None) if args.json else _say
    say(_headline(args, session))
    try:
        async for call, now in send_all(session.calls, gateway, concurrency=args.concurrency):
            # In a thread: long answers take a moment, and the times of other calls are being taken.
            comparison = await asyncio.to_thread(compare, call.then.answer, now.answer)
            row = report.Row(len(rows) + 1, call, now, comparison)
            rows.append(row)
            for line in report.row_lines(row):
                say(line)
    except UnreachableError as error:
        raise _unreachable(gateway, error) from None
    if args.json:
        document = {
            "file": str(args.file),
            "to": args.to,
            "deployment": args.deployment,
            "left_out": dict(session.left_out),
            "totals": report.totals(rows),
            "calls": report.as_json(rows),
        }
        _say(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        say("")
        for line in report.total_lines(rows):
            say(line)
    return rows


def _say(line: str) -> None:
    print(line, flush=True)


def _headline(args: argparse.Namespace, session: Session) -> str:
    count = len(session.calls)
    text = f"{args.file}: {count} call{'' if count == 1 else 's'} → {args.to}"
    if args.deployment:
        text += f", deployment {args.deployment}"
    if session.left_out:
        text += f"\nleft out: {report.left_out(session.left_out)}"
    return text


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "rerun",
        "Make the calls of a captured session again, and show the differences; or run a set of test cases.",
        epilog="The file is what `serve --capture FILE`, mitmdump -w or mitmweb has saved. Exit codes: 0 the "
        "run was made, 1 it could not be, a case failed, or --strict and a call failed or is different, "
        "2 wrong usage.",
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a mitmproxy dump file")
    parser.add_argument(
        "--set",
        type=Path,
        metavar="FILE",
        help="run this set of test cases instead, YAML or JSON Lines; exits with 1 if one fails",
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="of a set: a file with prices, such as gateway.yaml"
    )
    parser.add_argument(
        "--deployment", type=_deployment, metavar="NAME", help="send all calls to this deployment"
    )
    parser.add_argument(
        "--to", type=_url, default=LOCAL, metavar="URL", help="the gateway (default: %(default)s)"
    )
    parser.add_argument(
        "--key-env",
        default=KEY_VARIABLE,
        metavar="VARIABLE",
        help="the environment variable with the client's key (default: %(default)s)",
    )
    parser.add_argument("--ca", metavar="FILE", help="an authority to trust, in PEM, for an https gateway")
    parser.add_argument(
        "--filter", type=_filter, metavar="EXPR", help="only these flows: '~meta \"gateway_client: Demo\"'"
    )
    parser.add_argument("--limit", type=POSITIVE, metavar="N", help="only the first N calls")
    parser.add_argument(
        "--concurrency",
        type=POSITIVE,
        default=CONCURRENCY,
        metavar="N",
        help="so many calls at a time; 1 for times that can be compared (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a call failed or is different")
    return parser


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is no address such as {LOCAL}")
    if parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise argparse.ArgumentTypeError(f"an address without path and the like is needed, such as {LOCAL}")
    return text.rstrip("/")


def _deployment(text: str) -> str:
    if not DEPLOYMENT_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a deployment")
    return text


def _filter(text: str) -> Callable[[Flow], bool]:
    try:
        return flowfilter.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no flow filter of mitmproxy, such as ~u chat"
        ) from None
