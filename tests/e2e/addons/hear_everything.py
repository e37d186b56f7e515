"""Listens to each of the gateway's events and says so in the log, in one line of JSON."""

import json
import logging

from aoai_gateway.runtime.plugin_events import BackendChoice, BackendFailed, CallFinished, ClientIdentified


def say(event: str, **what: object) -> None:
    logging.info("heard %s", json.dumps({"event": event, **what}))


def gateway_client_identified(identified: ClientIdentified) -> None:
    say("identified", client=identified.client.name, body=identified.flow.request.raw_content is not None)


async def gateway_backend_chosen(choice: BackendChoice) -> None:
    say("chosen", candidates=[backend.name for backend in choice.candidates])


def gateway_backend_failed(failed: BackendFailed) -> None:
    say("failed", backend=failed.attempt.backend.name, reason=failed.attempt.reason)


async def gateway_call_finished(finished: CallFinished) -> None:
    say("finished", call=finished.record["call"], attempts=len(finished.record["attempts"]))
