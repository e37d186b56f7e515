"""The input file of a batch, looked at as AOAI does before the batch begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_FAULTS = 10


def faults_of(content: bytes, deployment: Callable[[str], object]) -> list[dict[str, Any]]:
    """List the faults of a file: lines that are no JSON, or whose model is no deployment, or another one.

    ``deployment`` finds a deployment by its name.
    """
    faults: list[dict[str, Any]] = []
    first: str | None = None
    lines = [line for line in content.split(b"\n") if line.strip()]
    if not lines:
        return [_fault("empty_file", "The input file has no lines.", None)]
    for number, line in enumerate(lines, 1):
        try:
            model = json.loads(line)["body"]["model"]
        except (ValueError, KeyError, TypeError):
            faults.append(_fault("invalid_json_line", "A line could not be read.", number))
            continue
        if not isinstance(model, str) or deployment(model) is None:
            faults.append(_fault("model_not_found", "The deployment was not found.", number))
        elif first is not None and model.lower() != first.lower():
            faults.append(_fault("model_mismatch", "The deployment is not that of the other lines.", number))
        else:
            first = model
        if len(faults) >= MOST_FAULTS:
            break
    return faults


def _fault(code: str, message: str, line: int | None) -> dict[str, Any]:
    param = "body.model" if code.startswith("model_") else None
    return {"code": code, "message": message, "param": param, "line": line}
