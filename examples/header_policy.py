"""A plugin: rules of your own about headers. Load it with ``./run.sh -s examples/header_policy.py``.

It wants a cost centre with each request, tells the backend who is asking, lets a request choose its endpoint
with ``x-gateway-endpoint: sweden``, and logs who has used what. (The gateway forwards no header whose name
begins with ``x-gateway-``.)
"""

import logging

from aoai_gateway.runtime.plugin_events import BackendChoice, CallFinished, ClientIdentified
from aoai_gateway.wire.errors import forbidden


def gateway_client_identified(identified: ClientIdentified) -> None:
    """Look at a request's headers, before its body comes."""
    headers = identified.flow.request.headers
    if "x-cost-centre" not in headers:
        raise forbidden("Say who pays: send the header x-cost-centre.", code="cost_centre_missing")
    headers["x-asked-by"] = identified.client.name


def gateway_backend_chosen(choice: BackendChoice) -> None:
    """Leave only the backends of the endpoint that the request names, if it names one."""
    endpoint = choice.flow.request.headers.get("x-gateway-endpoint")
    choice.candidates[:] = [b for b in choice.candidates if endpoint in (None, b.endpoint.name)]


def gateway_call_finished(finished: CallFinished) -> None:
    """Log a line for each call."""
    payer = finished.flow.request.headers["x-cost-centre"]
    logging.info("%s: %s tokens out", payer, finished.record["output_tokens"])
