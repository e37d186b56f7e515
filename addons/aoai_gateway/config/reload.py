"""Notice that the configuration was saved, and load it once it is whole.

What is looked at is each file's device, inode, size and time of change *behind* symbolic links, and the
list of policy files: that sees an editor writing in place, one that replaces the file, and Kubernetes
swapping a ConfigMap's ``..data`` link.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aoai_gateway.config.loader import ConfigErrors, Loaded, compile_sources, policy_files, read
from aoai_gateway.config.models import Config

type Signature = tuple[tuple[str, tuple[int, ...] | None], ...]


class Watch:
    """Watches one main file and its policy files, for a caller of :meth:`poll` now and then.

    It blocks on file I/O only, reads no clock and starts no thread. A change counts once two polls in a
    row see the same files, so a file that is still being written is not read.

    :param path: the main file.
    :param env: what ``${NAME}`` refers to.
    :param loaded: what is in force already; without it the first thing found is reported.
    """

    def __init__(self, path: Path, *, env: Mapping[str, str], loaded: Loaded | None = None) -> None:
        self._path = path
        self._env = env
        self._fingerprint = loaded.fingerprint if loaded else None
        self._settled: Signature | None = None
        self._pending: Signature | None = None

    def __repr__(self) -> str:
        return f"Watch({str(self._path)!r})"

    def poll(self) -> Loaded | ConfigErrors | None:
        """Look once.

        Returns a new valid configuration; or what is wrong with a new one, once for each change; or None
        when there is nothing to say. A file that was touched, or changed and changed back between two
        reports, is nothing.
        """
        seen = self._look()
        if seen == self._settled:
            self._pending = None
            return None
        if seen != self._pending:
            self._pending = seen
            return None
        outcome = self._load()
        if self._look() != seen:
            self._pending = None
            return None
        self._settled, self._pending = seen, None
        if outcome.fingerprint == self._fingerprint:
            return None
        self._fingerprint = outcome.fingerprint
        return outcome

    def read(self) -> Loaded | ConfigErrors:
        """Read at once what is there, changed or not: the caller knows that it is whole."""
        self._settled, self._pending = self._look(), None
        outcome = self._load()
        self._fingerprint = outcome.fingerprint
        return outcome

    def _load(self) -> Loaded | ConfigErrors:
        try:
            return compile_sources(read(self._path), env=self._env)
        except ConfigErrors as errors:
            return errors

    def _look(self) -> Signature:
        try:
            files = (self._path, *policy_files(self._path))
        except OSError:
            files = (self._path,)
        return tuple((str(file), _stat(file)) for file in files)


def _stat(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def changed_credentials(before: Config, now: Config) -> Iterator[str]:
    """Iterate over the endpoints that are shown something else since, by name."""
    shown = {endpoint.name: (endpoint.key, endpoint.auth) for endpoint in before.aoai.endpoints}
    for endpoint in now.aoai.endpoints:
        credential = (endpoint.key, endpoint.auth)
        if shown.get(endpoint.name, credential) != credential:
            yield endpoint.name


_READ_AT_START: tuple[tuple[str, Callable[[Config], Any]], ...] = (
    ("listen.host and listen.port take", lambda config: (config.listen.host, config.listen.port)),
    ("The section admin takes", lambda config: config.admin),
    ("workbench.enabled takes", lambda config: config.workbench.enabled),
    ("aoai.trusted_ca takes", lambda config: config.aoai.trusted_ca),
    (
        "state, state_prefix and budget_file take",
        lambda config: (config.state, config.state_prefix, config.budget_file),
    ),
    ("affinity_file takes", lambda config: config.affinity_file),
)


def waits_for_restart(start: Config, before: Config, now: Config) -> Iterator[str]:
    """Name the changes that count after a restart only, without those that were changed back."""
    for what, read_from in _READ_AT_START:
        if read_from(now) not in (read_from(before), read_from(start)):
            yield f"{what} effect when the gateway is restarted."
