"""``aoai-gateway report FILE…``: who used what, who was refused and why, how much quota each needs."""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.reading import Reading, RecordsError, Selection, parser_of_records
from aoai_gateway.analysis.records import read, uncollected
from aoai_gateway.analysis.report import report
from aoai_gateway.analysis.shown import MOST
from aoai_gateway.analysis.text import text
from aoai_gateway.command_line import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.config.models import Config

FORMATS = ("text", "json", "csv", "html")

WIDEST = 120


def main(words: Sequence[str], load_config: Any) -> int:
    """Run one command line. ``load_config``: gives the configuration of a path."""
    args = _parser().parse_args(words)
    config: Config | None = load_config(args.config) if args.config else None
    selection = Selection(args.since, args.until, frozenset(args.client), frozenset(args.deployment))
    reading = Reading()
    try:
        with uncollected():
            made = report(
                read(args.files, selection, reading),
                reading,
                percentile=args.percentile,
                config=config,
                throttled_only=args.throttled,
            )
    except RecordsError as error:
        print(f"aoai-gateway: {error}", file=sys.stderr)
        return 1
    if not reading.read and not reading.left_out:
        print(f"aoai-gateway: {reading.why_nothing()}", file=sys.stderr)
        return 1
    written = _written(made, args.format, args.top)
    if args.output:
        try:
            # A name that a client made up may hold half of a character.
            Path(args.output).write_text(written, encoding="utf-8", errors="replace")
        except OSError as error:
            print(f"aoai-gateway: {args.output}: {error.strerror}", file=sys.stderr)
            return 1
    else:
        sys.stdout.write(written)
    return 0


def _written(made: dict[str, Any], form: str, most: int) -> str:
    match form:
        case "json":
            return json.dumps(made, indent=2) + "\n"
        case "csv":
            return as_csv(made)
        case "html":
            from aoai_gateway.analysis.page import page

            return page(made, most)
        case _:
            return text(made, min(WIDEST, shutil.get_terminal_size((80, 24)).columns), most)


def as_csv(made: dict[str, Any]) -> str:
    """Write the consumers' figures as CSV; causes as ``cause=count`` joined by a blank."""
    out = io.StringIO()
    if made["consumers"]:
        writer = csv.DictWriter(out, list(made["consumers"][0]), lineterminator="\n")
        writer.writeheader()
        for row in made["consumers"]:
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


FORMULA = ("=", "+", "-", "@", "\t")
"""What a cell begins with that spreadsheets take for a formula."""


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        value = " ".join(f"{cause}={count}" for cause, count in value.items())
    if not isinstance(value, str):
        return value
    # Clients make names of deployments up, and the reader opens the file in a spreadsheet.
    value = " ".join(value.splitlines())
    return f"'{value}" if value.startswith(FORMULA) else value


def _parser() -> argparse.ArgumentParser:
    parser = parser_of_records(
        "report", "Say who used what, what it cost, who was refused and why, how much quota each needs."
    )
    parser.add_argument("--client", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--deployment", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--throttled", action="store_true", help="only consumers that got a 429")
    parser.add_argument(
        "--percentile", type=_percentile, default=99.0, help="of minutes, for the quota needed (default: 99)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration, for what each has, and PTU prices"
    )
    parser.add_argument(
        "--top",
        type=whole_number(0, 10**15, "number of rows: 0 or more"),
        default=MOST,
        metavar="N",
        help=f"rows of each table, the largest consumers; 0: all; text and html (default: {MOST})",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    parser.add_argument("--output", "-o", metavar="FILE", help="where to write it (default: standard output)")
    return parser


def _percentile(value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found <= 100:
        raise argparse.ArgumentTypeError(f"{value!r} is no percentile: above 0, up to 100")
    return found
