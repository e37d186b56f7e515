"""``aoai-gateway export FILE… -o usage.parquet``: usage records for queries of one's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from aoai_gateway.analysis.arguments import parser_of_records
from aoai_gateway.analysis.parquet import MissingError, write
from aoai_gateway.analysis.reading import Reading, RecordsError, Selection
from aoai_gateway.analysis.text import remarks
from aoai_gateway.command_line import installs

WIDTH = 100


def main(words: Sequence[str]) -> int:
    """Run one command line."""
    parser = parser_of_records("export", "Write usage records as a Parquet file, for queries of one's own.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="usage.parquet")
    args = parser.parse_args(words)
    reading = Reading()
    try:
        count = write(args.files, Selection(args.since, args.until), args.output, reading)
    except MissingError:
        print(f"aoai-gateway: `export` needs more packages: {installs('parquet')}", file=sys.stderr)
        return 1
    except (RecordsError, OSError) as error:
        said = f"{args.output}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"aoai-gateway: {said}", file=sys.stderr)
        return 1
    print(f"{args.output}: {count:,} records")
    # Standard output has the count alone.
    for line in remarks({"passed_over": reading.told(), "remarks": reading.remarks()}, WIDTH):
        print(line, file=sys.stderr)
    return 0
