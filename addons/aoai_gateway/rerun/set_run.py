"""``aoai-gateway rerun --set FILE``: run a set of cases, and say what passed, failed and cost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aoai_gateway.config.prices import Price
from aoai_gateway.rerun import judge
from aoai_gateway.rerun.answers import Answer
from aoai_gateway.rerun.calls import CapturedCall, Outcome, milliseconds
from aoai_gateway.rerun.case_set import PATHS, Case, CaseSet
from aoai_gateway.rerun.expectations import check
from aoai_gateway.rerun.sending import Gateway, send_all
from aoai_gateway.wire.targets import parse_target

_NOTHING = Outcome(Answer(0))


class PriceError(Exception):
    """A file has no prices that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one case. ``checks`` are as `check` gives them; ``cost`` is None without a price."""

    case: Case
    deployment: str
    outcome: Outcome
    checks: Sequence[Mapping[str, Any]]
    cost: float | None

    @property
    def passed(self) -> bool:
        """Whether there is an answer, and it keeps to all that is expected."""
        return self.outcome.answer.is_good and all(each["passed"] for each in self.checks)


def read_prices(path: Path) -> dict[str, Price]:
    """Read the section ``prices`` of a file, such as ``gateway.yaml``. Raises PriceError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(n): Price.model_validate(p) for n, p in (document.get("prices") or {}).items()}
    except OSError as error:
        raise PriceError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, AttributeError, yaml.YAMLError):
        raise PriceError(f"{path} has no section prices that can be read.") from None


async def run_set(
    cases: CaseSet, gateway: Gateway, *, deployment: str, prices: Mapping[str, Price], concurrency: int
) -> AsyncIterator[Result]:
    """Run the cases, so many at a time, and give what came of each, in their order.

    ``deployment``: what answers cases that name no ``model``; ``prices``: by deployment or model. Raises
    UnreachableError if not even the first one finds a gateway.
    """
    calls = [_call(case.operation, {"model": deployment, **case.request()}) for case in cases.cases]
    by_call = {id(call): case for call, case in zip(calls, cases.cases, strict=True)}
    async for call, outcome in send_all(calls, gateway, concurrency=concurrency):
        case = by_call[id(call)]
        checks = check(case.expect, _facts(outcome))
        for result, expectation in zip(checks, case.expect, strict=True):
            if result["passed"] is None:
                await _judge(result, expectation["judge"], case, outcome, cases, gateway)
        yield Result(case, call.deployment, outcome, checks, _cost(outcome, call.deployment, prices))


async def _judge(
    result: dict[str, Any],
    asked: Mapping[str, Any],
    case: Case,
    outcome: Outcome,
    cases: CaseSet,
    gateway: Gateway,
) -> None:
    deployment = judge.deployment_of(asked, cases.judge)
    if deployment is None:
        result |= {"passed": False, "detail": "no deployment is named that judges"}
        return
    prompt = json.dumps(case.request(), ensure_ascii=False)
    body = judge.request(asked["rubric"], prompt, outcome.answer.plain, deployment)
    async for _, said in send_all([_call("chat.completions", body)], gateway, concurrency=1):
        try:
            if said.answer.error:
                raise judge.JudgeError(f"the judge could not be asked: {said.answer.error}")
            result["passed"], result["detail"] = judge.verdict(said.answer.plain)
        except judge.JudgeError as error:
            result |= {"passed": False, "detail": str(error)}


def _call(operation: str, body: Mapping[str, Any]) -> CapturedCall:
    streaming = body.get("stream") is True
    target = parse_target("POST", PATHS[operation])
    if streaming and target.knows_stream_options:
        # Else nothing would say how many tokens it has taken.
        options = body.get("stream_options")
        given = options if isinstance(options, Mapping) else {}
        body = {**body, "stream_options": {**given, "include_usage": True}}
    return CapturedCall(
        flow="",
        client="",
        operation=operation,
        deployment=str(body.get("model", "")),
        streaming=streaming,
        method="POST",
        target=PATHS[operation],
        headers=(("content-type", "application/json"), *target.operation.dialect.headers),
        body=json.dumps(body).encode(),
        then=_NOTHING,
    )


def _facts(outcome: Outcome) -> dict[str, Any]:
    answer = outcome.answer
    return {
        "text": answer.plain,
        "error": answer.error or (f"status {answer.status}" if answer.status >= 400 else ""),
        "finish_reason": answer.finish_reason,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "total_ms": milliseconds(outcome.total),
        "first_ms": milliseconds(outcome.first_token),
    }


def _cost(outcome: Outcome, deployment: str, prices: Mapping[str, Price]) -> float | None:
    price, answer = prices.get(deployment), outcome.answer
    if price is None or answer.input_tokens is None:
        return None
    return price.cost(answer.input_tokens, answer.output_tokens or 0)


# --- words -----------------------------------------------------------------------------------------------


def result_lines(number: int, result: Result) -> list[str]:
    """Tell one case: a line for it, and one for each expectation that was missed."""
    facts = _facts(result.outcome)
    words = [f"{number:>4} {'passed' if result.passed else 'FAILED'}  {result.case.name}", result.deployment]
    if facts["output_tokens"] is not None:
        words.append(f"tokens {facts['input_tokens']} in, {facts['output_tokens']} out")
    if facts["total_ms"] is not None:
        words.append(f"{facts['total_ms']} ms")
    if result.cost is not None:
        words.append(f"cost {result.cost:.6f}")
    missed = [f"     {each['expect']}: {each['detail']}" for each in result.checks if not each["passed"]]
    if not result.passed and not missed:
        missed = [f"     {facts['error'] or 'there is no answer'}"]
    return ["; ".join(words), *missed]


def total_line(results: Sequence[Result]) -> str:
    """Return what the run amounts to."""
    passed = sum(result.passed for result in results)
    line = f"{len(results)} cases: {passed} passed, {len(results) - passed} failed"
    costs = [result.cost for result in results if result.cost is not None]
    return f"{line}; cost {sum(costs):.6f}" if costs else line


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return all results as a document's member."""
    return [
        {
            "case": result.case.name,
            "deployment": result.deployment,
            "passed": result.passed,
            "checks": [dict(each) for each in result.checks],
            "cost": result.cost,
            "status": result.outcome.answer.status or None,
            **_facts(result.outcome),
        }
        for result in results
    ]


async def tell(
    results: AsyncIterator[Result], say: Callable[[str], None], *, as_document: bool
) -> list[Result]:
    """Return what came of each as it comes, and in the end of all."""
    found: list[Result] = []
    async for result in results:
        found.append(result)
        if not as_document:
            for line in result_lines(len(found), result):
                say(line)
    if as_document:
        passed = sum(result.passed for result in found)
        document = {"passed": passed, "failed": len(found) - passed, "cases": as_json(found)}
        say(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        say("")
        say(total_line(found))
    return found
