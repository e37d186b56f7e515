"""Batches: their input file, looked at as AOAI does before they begin, and the files that they end with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_FAULTS = 10

MOST_LINES = 200
"""How many lines are answered: a file can have 100,000, and a simulator's answers come while others wait."""

NEXT: Mapping[str, str] = {"validating": "in_progress", "in_progress": "completed"}
"""What becomes of a batch from one look at it to the next: no clock runs here."""

type AnswerLine = Callable[[str, Mapping[str, Any]], tuple[int, Any]]
"""Gives the status and the body for the url and the body of a line."""


@dataclass(frozen=True, slots=True)
class Results:
    """The files that a batch ends with; ``failed`` counts the lines of the second."""

    output: bytes
    errors: bytes
    completed: int
    failed: int

    @property
    def counts(self) -> dict[str, int]:
        """As a batch tells them."""
        total = self.completed + self.failed
        return {"total": total, "completed": self.completed, "failed": self.failed}


def results_of(content: bytes, answer: AnswerLine) -> Results:
    """Answer the lines of a file in which `faults_of` has found none."""
    done: list[bytes] = []
    failed: list[bytes] = []
    for number, line in enumerate(each for each in content.split(b"\n") if each.strip()):
        asked = json.loads(line)
        row = {"id": f"batch_req_{number}", "custom_id": asked.get("custom_id"), "error": None}
        if number >= MOST_LINES:
            told = f"The simulator answers the first {MOST_LINES} lines of a batch."
            row |= {"response": None, "error": {"code": "simulator_limit", "message": told}}
            failed.append(_line(row))
            continue
        status, body = answer(str(asked.get("url")), asked["body"])
        row["response"] = {"status_code": status, "request_id": f"{number:032x}", "body": body}
        (done if status == 200 else failed).append(_line(row))
    return Results(b"".join(done), b"".join(failed), len(done), len(failed))


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


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
