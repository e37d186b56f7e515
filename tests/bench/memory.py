"""The memory of a gateway after its start, with so many workers: `python -m tests.bench.memory`.

Proportional set sizes (PSS, /proc/PID/smaps_rollup) of all its processes: a page that several share counts
once in the sum. Pages of libraries that other processes of the machine use too count in part only. Resident
set sizes (RSS), which `ps` and `top` show, count shared pages in full in each process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.e2e.processes import Gateway
from tests.e2e.settings import CLIENT_KEY

SETTLED_SECONDS = 3.0


class _Gateway(Gateway):
    def __init__(self, workers: int, config: dict[str, Any], folder: Path) -> None:
        self._workers = workers
        super().__init__("serve", config, folder, home=folder, name=f"gateway-{workers}", forked=False)

    def _command(self, scripts: Any) -> list[str | Path]:
        command = super()._command(scripts)
        return [*command[:-1], "--workers", str(self._workers), "--"]


def kilobytes(pid: int, what: str) -> int:
    """The proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def configuration(*, counts: bool) -> dict[str, Any]:
    client: dict[str, Any] = {"name": "Tester", "key": CLIENT_KEY}
    if counts:
        client["max_tokens_per_minute"] = 100_000
    standins = [{"name": "gpt-4o"}]
    endpoint = {"name": "sweden", "url": "https://contoso.example/", "key": "a-key-of-azure-1"}
    endpoint["virtual_deployments"] = [{"name": "gpt-4o", "standins": standins}]  # type: ignore[assignment]
    return {"admin": {"port": 0}, "aoai": {"endpoints": [endpoint]}, "clients": [client]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    args = parser.parse_args()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    for counts in (False, True):
        for workers in args.workers:
            with tempfile.TemporaryDirectory() as folder:
                gateway = _Gateway(workers, configuration(counts=counts), Path(folder))
                try:
                    time.sleep(SETTLED_SECONDS)
                    found = family(gateway.pid)
                    sizes, resident = ([kilobytes(pid, w) // 1024 for pid in found] for w in ("Pss", "Rss"))
                finally:
                    gateway.stop()
            quota = "with a token quota" if counts else "without"
            print(f"{workers} workers, {quota}: {sum(sizes)} MiB in all, by process {sizes}; RSS {resident}")


if __name__ == "__main__":
    main()
