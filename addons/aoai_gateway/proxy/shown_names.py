"""By which name a client knows the deployment that has served it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.wire.model_names import ModelNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.engine.call import Call
    from aoai_gateway.routing.backends import Backend

NONE = ModelNames({})


def shown_names(call: Call, backend: Backend) -> ModelNames:
    """Return the names that are replaced in an answer of a backend to a call.

    That of the standin is replaced by the deployment that the client asked for. Where it asked for none, as
    in a call for a stored response, by the virtual deployment that has this standin at the endpoint, if it is
    only one.
    """
    body = call.body
    assert body is not None
    asked, real = body.deployment(call.target), backend.deployment(call.deployment).lower()
    if asked:
        return NONE if real == asked.lower() else ModelNames({real: asked})
    known: dict[str, ModelNames] = call.setup.config.derived.setdefault(shown_names, {})
    names = known.get(backend.endpoint.name)
    if names is None:
        names = known[backend.endpoint.name] = ModelNames(_virtual_names(backend))
    return names


def _virtual_names(backend: Backend) -> Mapping[str, str]:
    names: dict[str, set[str]] = {}
    for virtual in backend.endpoint.virtual_deployments:
        for standin in virtual.standins:
            names.setdefault(standin.name.lower(), set()).add(virtual.name)
    only = {real: virtual.pop() for real, virtual in names.items() if len(virtual) == 1}
    return {real: virtual for real, virtual in only.items() if virtual.lower() != real}
