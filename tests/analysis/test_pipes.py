"""Files that can be read once only: pipes, and standard input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from tests.usage.records import record

LINES = b"".join(json.dumps(record(call=f"call-{n}")).encode() + b"\n" for n in range(400))


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_whole(packed: bool, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = gzip.compress(LINES) if packed else LINES
    writer = threading.Thread(target=pipe.write_bytes, args=[data])
    writer.start()
    try:
        found = [each["call"] for _, each in read([pipe], Selection(), Reading())]
    finally:
        writer.join(30)
    assert found == [f"call-{n}" for n in range(400)]


def test_a_dash_is_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aoai_gateway.app.cli", "report", "-", "--format", "json"],
        input=LINES,
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout)["records"] == 400
