"""What the headless host loads."""

import subprocess
import sys


def test_the_headless_host_loads_neither_the_inspector_nor_the_simulator() -> None:
    program = (
        "import sys, aoai_gateway.app.host; "
        "unwanted = ('aoai_gateway.inspect', 'aoai_simulator'); "
        "print(*sorted(name for name in sys.modules if name.startswith(unwanted)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout.split() == []
