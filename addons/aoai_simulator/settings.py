"""What can be changed of simulated resources while they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Settings:
    """What can be changed while the simulator runs.

    `completion_tokens` fixes the natural length of completions, and `completion_share` makes it that share
    of the call's own max_tokens, where it has such a bound; `burst_seconds` is for how long the
    tokens of a stream are collected (0: every frame is written on its own); `responses_done` ends
    responses streams with `data: [DONE]`; `late_filter` makes chat streams like those of a deployment
    with the asynchronous content filter.
    """

    gzip: bool = False
    log_requests: bool = True
    burst_seconds: float = 0.02
    completion_tokens: int | None = None
    completion_share: float | None = None
    responses_done: bool = True
    late_filter: bool = False

    def update(self, values: Mapping[str, Any]) -> None:
        """Change some; raises ValueError, and changes nothing, if a name or a value is wrong."""
        for name, value in values.items():
            kind = _SETTINGS.get(name)
            if kind is None:
                raise ValueError(f"unknown setting {name!r}; there are: {', '.join(_SETTINGS)}")
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"setting {name!r} cannot be {value!r}")
        for name, value in values.items():
            setattr(self, name, value)


_SETTINGS: Mapping[str, Any] = {
    "gzip": bool,
    "log_requests": bool,
    "burst_seconds": int | float,
    "completion_tokens": int | None,
    "completion_share": int | float | None,
    "responses_done": bool,
    "late_filter": bool,
}
