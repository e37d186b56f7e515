"""Several workers' answers as one: status documents, and metrics in Prometheus' text format.

Counts are added up. Of what each worker knows of the whole gateway (breaks, quotas, headroom, limits), the
first one's word is taken: they agree through the store that they share. Quantiles cannot be added; the
slowest worker's are shown.

Some workers have ended, and counters only grow, as a scraper takes for granted. A worker that ends leaves its
last counts in a file beside its socket. Of one that was killed, what it told last is kept; of one that does
not answer in time, that stands in for the answer. The sum of the ended ones is in a file, too, since the
process of the admin listener may start anew.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

ADDED = frozenset(
    {
        *("in_flight", "waiting", "calls", "answers", "refused", "errors", "gone", "replayed"),
        *("tokens_in", "tokens_out", "tokens", "waited", "waited_seconds", "attempts", "failed"),
        *("failed_attempts", "written", "dropped", "opened_ahead"),
    }
)
"""Members that are counts, or lists or objects of them."""

LARGEST = frozenset({"p50_ms", "p95_ms", "longest_wait_seconds", "uptime_seconds"})

NAMES = ("name", "priority")
"""The members by which the items of a list are told apart."""

ADDED_GAUGES = (
    *("in_flight", "waiting", "queue", "connections", "calls", "reservations"),
    *("memory", "cpu", "fds"),
)
"""Words in the names of gauges that are each process's part of a whole; others say the same everywhere."""


def merged_status(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one status document (:mod:`~aoai_gateway.admin.snapshot`) for those of several workers."""
    document: dict[str, Any] = _merged("", documents)
    about = document["gateway"]
    statuses = {each["gateway"]["status"] for each in documents}
    about["status"] = next(s for s in ("degraded", "ready", "starting", "draining") if s in statuses)
    # A worker of an earlier version, which is just being replaced, has none.
    troubles = [each for document in documents for each in document["gateway"].get("trouble", ())]
    about["trouble"] = list({each["text"]: each for each in troubles}.values())
    about["config_errors"] = list(
        dict.fromkeys(error for each in documents for error in each["gateway"]["config_errors"])
    )
    lost = [each["gateway"]["state"] for each in documents if each["gateway"]["state"].startswith("degraded")]
    about["state"] = min(lost, default=about["state"])
    actions = [action for each in documents for action in each["by_hand"]["actions"]]
    told = {(action["time"][:16], action["text"]): action for action in reversed(actions)}
    document["by_hand"]["actions"] = sorted(told.values(), key=lambda a: str(a["time"]), reverse=True)
    return document


def _merged(key: str, values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    first = known[0]
    if key in ADDED:
        return _sum(known)
    if key in LARGEST:
        return _largest(known)
    if isinstance(first, dict):
        keys = dict.fromkeys(name for value in known for name in value)
        return {name: _merged(name, [value.get(name) for value in known]) for name in keys}
    if isinstance(first, list):
        return _merged_items(known)
    return first


def _merged_items(lists: Sequence[list[Any]]) -> list[Any]:
    name = next(
        (n for n in NAMES if any(isinstance(i, dict) and n in i for items in lists for i in items)), None
    )
    if name is None:
        return lists[0]
    by_name: dict[Any, list[Any]] = {}
    for items in lists:
        for item in items:
            by_name.setdefault(item[name], []).append(item)
    return [_merged("", items) for items in by_name.values()]


def _sum(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(name for value in values for name in value)
        return {name: _sum([value[name] for value in values if name in value]) for name in keys}
    if isinstance(first, list):
        return [_sum(column) for column in zip(*values, strict=False)]
    return round(sum(values), 3)


def _largest(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
        return [
            max((v for v in column if v is not None), default=None) for column in zip(*values, strict=False)
        ]
    return max(values)


COUNTED = frozenset({"counter", "histogram", "summary"})
"""Kinds of metrics that only grow."""


@dataclass(slots=True)
class Exposition:
    """Metrics in Prometheus' text format, version 0.0.4, by their families in the order of the text."""

    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    """The lines of help and type, by their kind."""
    kinds: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, float]] = field(default_factory=dict)
    """The values, by series as they stand in the text."""

    @classmethod
    def parse(cls, text: str) -> Exposition:
        """Read one. Raises ValueError."""
        found, family = cls(), ""
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                _, kind, family, *rest = line.split(" ", 3)
                found.heads.setdefault(family, {})[kind] = line
                if kind == "TYPE":
                    found.kinds[family] = rest[0] if rest else "untyped"
            elif line and not line.startswith("#"):
                series, value = _sample(line)
                found.samples.setdefault(family, {})[series] = value
        return found

    def only(self, kinds: Container[str]) -> Exposition:
        """Return the families of some kinds."""
        families = [family for family, kind in self.kinds.items() if kind in kinds]
        return Exposition(
            {family: self.heads[family] for family in families},
            {family: self.kinds[family] for family in families},
            {family: self.samples[family] for family in families if family in self.samples},
        )

    def text(self) -> str:
        """Write it down."""
        lines: list[str] = []
        for family, of in self.samples.items():
            lines += self.heads.get(family, {}).values()
            lines += [f"{series} {_number(value)}" for series, value in of.items()]
        return "".join(line + "\n" for line in lines)


def merged(expositions: Iterable[Exposition]) -> Exposition:
    """Return one exposition for those of several workers.

    Counters, histograms and summaries are added up, and gauges of what each process holds a part of.
    Of other gauges the largest value counts. Samples keep the order in which they came first.
    """
    together = Exposition()
    for each in expositions:
        for family, head in each.heads.items():
            together.heads.setdefault(family, {}).update(head)
        together.kinds.update(each.kinds)
        for family, samples in each.samples.items():
            of = together.samples.setdefault(family, {})
            for series, value in samples.items():
                if series in of:
                    of[series] = _together(family, together.kinds.get(family, ""), of[series], value)
                else:
                    of[series] = value
    return together


def _sample(line: str) -> tuple[str, float]:
    # Labels may hold spaces and braces, inside of quotes; the value follows the last brace.
    end = line.rfind("}") + 1 or line.index(" ")
    return line[:end], float(line[end:].split()[0])


def _together(family: str, kind: str, one: float, other: float) -> float:
    if kind == "gauge" and not any(word in family for word in ADDED_GAUGES):
        return max(one, other)
    if family.endswith(("_info", "_created")):
        return max(one, other)
    return one + other


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


logger = logging.getLogger(__name__)

# --- workers that have ended -----------------------------------------------------------------------------

LEFT = ".metrics"
"""The ending of the file with a worker's last counts; the rest of its name is its socket's."""

ENDED = "ended-workers.sum"
"""The file with the sum of those that have ended."""


def leave(socket: Path, counts: bytes) -> None:
    """Leave the last counts of the worker of this socket. Raises OSError."""
    draft = socket.with_suffix(".draft")
    draft.write_bytes(counts)
    draft.replace(socket.with_suffix(LEFT))


class WorkersMetrics:
    """The counts of all workers that there have been. ``folder``: that of their sockets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = Exposition()
        self._last: dict[str, Exposition] = {}
        self._known: set[str] = set()
        """The workers whose last counts are in the sum, while their sockets may still be there."""
        with suppress(OSError):
            self._ended = Exposition.parse((folder / ENDED).read_text())

    def together(self, answers: Mapping[str, str | None]) -> str:
        """Return one exposition. ``answers``: by a worker's socket, its own; None if it did not answer."""
        self._take_what_was_left()
        self._known &= answers.keys()
        for gone in self._last.keys() - answers.keys():
            self._add(self._last.pop(gone))
        now = []
        for name, text in answers.items():
            if name in self._known:
                continue
            if text is None:
                now += [self._last[name]] if name in self._last else []
            else:
                now.append(said := Exposition.parse(text))
                self._last[name] = said.only(COUNTED)
        return merged([*now, self._ended]).text()

    def _take_what_was_left(self) -> None:
        for path in sorted(self._folder.glob(f"*{LEFT}")):
            try:
                left = Exposition.parse(path.read_text()).only(COUNTED)
                path.unlink()
            except (OSError, ValueError) as error:
                logger.error("The last counts of a worker, in %s, are lost: %s", path, error)
                continue
            name = path.with_suffix(".sock").name
            self._last.pop(name, None)
            self._known.add(name)
            self._add(left)

    def _add(self, counts: Exposition) -> None:
        self._ended = merged([self._ended, counts])
        draft = self._folder / f"{ENDED}.draft"
        # On a full disk the sum is lost only if this process starts anew, too.
        with suppress(OSError):
            draft.write_text(self._ended.text())
            draft.replace(self._folder / ENDED)
