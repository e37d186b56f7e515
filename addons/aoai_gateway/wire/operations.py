"""From a request target to an operation: which API, which deployment, and how to address another one.

Azure OpenAI has two forms (Azure OpenAI REST reference):

- *classic*: ``/openai/deployments/{deployment}/{operation}?api-version=…``; operations
  without a deployment in their path (responses, models) are at ``/openai/{operation}``;
- *v1*: ``/openai/v1/{operation}``; the deployment is the body's ``model``.

The match is exact, segment by segment, on the bytes that came: nothing is decoded, collapsed or resolved
before it, so ``..``, ``//``, ``%2f``, ``;`` and a trailing slash never match anything. Only the deployment's
segment is percent-decoded, once (SDKs encode it), and must then be a plausible name. The one target that can
reach a backend is therefore one that was fully understood here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote

from aoai_gateway.wire import path_hints
from aoai_gateway.wire.errors import (
    GatewayError,
    deployment_not_found,
    invalid_target,
    method_not_allowed,
    not_built,
    not_found,
)

Api = Literal["classic", "v1"]

DEPLOYMENT_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}", re.ASCII)
"""The form of a deployment's name in a path. Azure's own names are up to 64 of these characters."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a client can ask for.

    ``name`` is the SDKs' (``chat.completions``), ``path`` the part after the API's prefix. ``streams``: it
    can answer with server-sent events; ``takes_stream_options``: the usage of a stream must be asked for
    with ``stream_options.include_usage``; ``stateful_create``: every call leaves state behind at one
    resource, so it may be sent again only when it surely was not taken.
    """

    name: str
    method: str
    path: str
    classic_deployment: bool
    streams: bool = False
    takes_stream_options: bool = False
    stateful_create: bool = False

    def __reduce__(self) -> tuple[object, ...]:
        """Stay the same object in another process: operations are compared by identity."""
        return _operation, (self.path,)

    @property
    def has_body(self) -> bool:
        """Whether the request has a JSON body that names what is asked for."""
        return self.method == "POST"


CHAT_COMPLETIONS = Operation(
    "chat.completions", "POST", "chat/completions", True, streams=True, takes_stream_options=True
)
COMPLETIONS = Operation("completions", "POST", "completions", True, streams=True, takes_stream_options=True)
EMBEDDINGS = Operation("embeddings", "POST", "embeddings", True)
# A stored response is state, but an orphan of it does no harm; a background one runs on, and the body tells.
RESPONSES = Operation("responses", "POST", "responses", False, streams=True)
MODELS = Operation("models", "GET", "models", False)

OPERATIONS: tuple[Operation, ...] = (CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, MODELS)
_BY_PATH: Mapping[str, Operation] = {operation.path: operation for operation in OPERATIONS}


_IN_DEPLOYMENTS = tuple(operation.path for operation in OPERATIONS if operation.classic_deployment)
_ELSEWHERE = tuple(operation.path for operation in OPERATIONS if not operation.classic_deployment)


def _operation(path: str) -> Operation:
    return _BY_PATH[path]


# First segment after the API's prefix → what a person calls the family.
_NOT_BUILT: Mapping[str, str] = {
    "assistants": "assistants",
    "audio": "audio",
    "batches": "batches",
    "containers": "containers",
    "conversations": "conversations",
    "deployments": "the management of deployments",
    "evals": "evals",
    "extensions": "chat completions extensions",
    "files": "files",
    "fine_tuning": "fine-tuning",
    "fine-tunes": "fine-tuning",
    "images": "images",
    "realtime": "realtime",
    "threads": "threads",
    "uploads": "uploads",
    "vector_stores": "vector stores",
    "video": "videos",
    "videos": "videos",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A request target that was understood.

    ``deployment`` is the one in the path (decoded), None where the body names it; ``resource_id`` the id
    after ``models/``. Its repr leaves out the target as it came, whose query can hold a key.
    """

    operation: Operation
    api: Api
    deployment: str | None = None
    api_version: str | None = None
    resource_id: str | None = None
    _raw: str = field(default="", repr=False)
    _deployment_span: tuple[int, int] | None = field(default=None, repr=False)

    def with_deployment(self, name: str) -> str:
        """The target as it came, with its deployment replaced by ``name`` (percent-encoded).

        Everything else stays as it is, byte for byte, the query too. Without a deployment in the path
        nothing is replaced: the body's ``model`` is to be edited then.
        """
        if self._deployment_span is None:
            return self._raw
        start, end = self._deployment_span
        return self._raw[:start] + quote(name, safe="") + self._raw[end:]

    def with_prefix(self, prefix: str, deployment: str | None = None) -> str:
        """The target below an endpoint's path prefix ("" or "/apim/aoai"), at ``deployment`` if given."""
        return prefix.rstrip("/") + (self._raw if deployment is None else self.with_deployment(deployment))

    @property
    def knows_stream_options(self) -> bool:
        """Whether a stream's usage can be asked for with ``stream_options`` in this call."""
        return self.operation.takes_stream_options and knows_stream_options(self.api, self.api_version)


_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-preview)?", re.ASCII)
_STREAM_OPTIONS_SINCE = "2024-09-01"


def knows_stream_options(api: Api, api_version: str | None) -> bool:
    """Whether this api-version takes ``stream_options.include_usage``.

    2024-09-01-preview was the first, 2024-10-21 the first without "preview"; v1 always does. Older ones
    answer 400 to it, so a version that cannot be read counts as old.
    """
    if api == "v1":
        return True
    dated = _DATED.fullmatch(api_version or "")
    return dated is not None and dated[1] >= _STREAM_OPTIONS_SINCE


def parse_target(method: str, path: str) -> Target:
    """Read ``path``, the request target as it came (with its query), asked for with ``method``.

    Raises `GatewayError`: 400 for anything but an origin-form target (RFC 9112 §3.2.1), 404 for a path that
    is not Azure OpenAI's or a deployment that cannot be one, 405 for another method on a known path, 501
    for a family that is not served.
    """
    if method == "CONNECT" or not path.startswith("/"):
        raise invalid_target(
            "This is a gateway, not a forward proxy: the request target must be a path such as "
            "/openai/v1/chat/completions. Set it as the SDK's endpoint, not as its proxy."
        )
    bare, _, query = path.partition("?")
    segments = bare.split("/")  # ["", "openai", …]
    if len(segments) < 3 or segments[1] != "openai" or "" in segments[1:]:
        raise _unknown(bare)
    if segments[2] == "v1":
        return _match(method, path, "v1", segments[3:], None, None, query)
    if segments[2] == "deployments" and len(segments) > 4:
        start = len("/openai/deployments/")
        span = (start, start + len(segments[3]))
        return _match(method, path, "classic", segments[4:], unquote(segments[3]), span, query)
    return _match(method, path, "classic", segments[2:], None, None, query)


def _match(
    method: str,
    raw: str,
    api: Api,
    rest: list[str],
    deployment: str | None,
    span: tuple[int, int] | None,
    query: str,
) -> Target:
    operation = _BY_PATH.get("/".join(rest))
    resource_id = None
    if operation is None and len(rest) == 2 and rest[0] == "models" and deployment is None:
        operation, resource_id = MODELS, unquote(rest[1])
        if not DEPLOYMENT_NAME.fullmatch(resource_id):
            raise _unknown(raw)
    if operation is not None:
        in_path = api == "classic" and operation.classic_deployment
        if in_path != (deployment is not None):
            operation = None
    if operation is None:
        raise _unmatched(raw, api, rest, deployment)
    if method != operation.method:
        raise _other_method(method, operation, api)
    if deployment is not None and not DEPLOYMENT_NAME.fullmatch(deployment):
        raise deployment_not_found(deployment)
    return Target(operation, api, deployment, _api_version(query), resource_id, raw, span)


def _unmatched(raw: str, api: Api, rest: list[str], deployment: str | None) -> GatewayError:
    """Return the error for a path that the gateway does not serve."""
    first = rest[0] if rest else ""
    if deployment is not None:
        if first in ("audio", "images", "realtime", "extensions"):
            return not_built(_NOT_BUILT[first])
        return _unknown(raw)
    if first == "responses" and len(rest) > 1:
        return not_built("stored responses (responses/{id} and the like)")
    if rest[:2] == ["chat", "completions"] and len(rest) > 2:
        return not_built("stored chat completions")
    if first in _NOT_BUILT and not (api == "v1" and first == "deployments"):
        return not_built(_NOT_BUILT[first])
    return _unknown(raw)


def _unknown(raw: str) -> GatewayError:
    """Return the error for an unknown path, with the one that is probably meant."""
    bare = raw.partition("?")[0]
    return not_found(bare, path_hints.hint(bare, _IN_DEPLOYMENTS, _ELSEWHERE))


def _other_method(method: str, operation: Operation, api: Api) -> GatewayError:
    if method == "GET" and operation is CHAT_COMPLETIONS and api == "v1":
        return not_built("stored chat completions")
    if method == "GET" and operation is RESPONSES:
        return not_built("responses over a WebSocket")
    return method_not_allowed(method, (operation.method,))


def _api_version(query: str) -> str | None:
    if "api-version" not in query:
        return None
    try:
        pairs = parse_qsl(query, max_num_fields=64)
    except ValueError:
        raise invalid_target(
            "The query has too many parameters. api-version is the one that matters."
        ) from None
    return next((value for name, value in pairs if name == "api-version"), None)
