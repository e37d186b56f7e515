"""What an evaluation says of its graders, and a run of one of their results."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any


def with_ids(graders: object, randomness: random.Random) -> object:
    """Return graders with ids, which begin with their names, where they have none."""
    if not isinstance(graders, list):
        return graders
    return [
        {"id": f"{each['name']}-{randomness.getrandbits(128):032x}", **each}
        if isinstance(each, dict) and "name" in each
        else each
        for each in graders
    ]


def of_run(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a run that are about its evaluation; it has not begun yet."""
    graders = evaluation.get("testing_criteria")
    idents = [
        each["id"]
        for each in (graders if isinstance(graders, list) else ())
        if isinstance(each, dict) and "id" in each
    ]
    return {
        "eval_id": evaluation["id"],
        "error": None,
        "result_counts": {"total": 0, "errored": 0, "failed": 0, "passed": 0},
        "per_testing_criteria_results": [
            {"testing_criteria": ident, "passed": 0, "failed": 0} for ident in idents
        ],
        "per_model_usage": [],
    }
