"""What the commands over usage records have in common: the files, and the time that counts."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from aoai_gateway.analysis.records import moment


def parser_of_records(command: str, description: str) -> argparse.ArgumentParser:
    """Make a command's parser, with FILE, --since and --until."""
    parser = argparse.ArgumentParser(
        prog=f"aoai-gateway {command}", description=description, allow_abbrev=False
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="usage records (lines of JSON), captures, or records of LiteLLM, PowerProxy or API Management; "
        ".gz, too; -: standard input",
    )
    parser.add_argument(
        "--since", type=_moment, help="yesterday, today, 24h, 7d, or a time: 2026-11-28T09:00"
    )
    parser.add_argument("--until", type=_moment, help="likewise; not included")
    return parser


def _moment(value: str) -> float:
    try:
        return moment(value, datetime.now(UTC))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{value!r} is no time: yesterday, 24h, 7d, 2026-11-28T09:00"
        ) from None
