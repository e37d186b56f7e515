"""From a request target to an operation: which API, which deployment, and how to address another one.

Azure OpenAI has two forms (Azure OpenAI REST reference), and Claude on Azure has one of its own:

- *classic*: ``/openai/deployments/{deployment}/{operation}?api-version=…``; operations without a deployment
  in their path (responses, files) are at ``/openai/{operation}``;
- *v1*: ``/openai/v1/{operation}``; the deployment is the body's ``model``;
- *anthropic*: ``/anthropic/v1/{operation}``, likewise; and ``/v1/messages``, which clients of Anthropic's own
  address make of that of a gateway.

The match is exact, segment by segment, on the bytes that came: nothing is decoded, collapsed or resolved
before it, so ``..``, ``//``, ``%2f``, ``;`` and a trailing slash never match anything. Only the segments of
deployments and ids are percent-decoded, once (SDKs encode them), and must then be plausible names. So no
target reaches a backend that was not fully understood here.

A path below ``/openai/v1/`` or ``/anthropic/v1/`` that is not in the table is an operation that Azure may
have by now, if its segments are plain and it is not nearly one of the table's: see `operations.UNKNOWN`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

from aoai_gateway.wire import errors, path_hints
from aoai_gateway.wire.dialects import ANTHROPIC, OPENAI, Dialect
from aoai_gateway.wire.errors import no_websocket_here, upgrade_required
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operation import Classic, Operation
from aoai_gateway.wire.operations import (
    CLASSIC_ONLY,
    NOT_SERVED,
    OPERATIONS,
    TABLES,
)
from aoai_gateway.wire.references import LONGEST_ID, is_id

Api = Literal["classic", "v1", "anthropic"]

DEPLOYMENT_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}", re.ASCII)
"""The form of a deployment's name in a path. Azure's own names are up to 64 of these characters."""

ID = re.compile(rf"(?!\.+$)[A-Za-z0-9._~:@=+-]{{1,{LONGEST_ID}}}", re.ASCII)
"""The form of an id in a path, and of each segment of a path that is not in the table."""

MOST_SEGMENTS = 12
"""The most segments of a path that is not in the table."""


@dataclass(frozen=True, slots=True)
class Target:
    """A request target that was understood.

    ``deployment`` is the one in the path (decoded), None where the body names it; ``ids`` those in the path,
    from left to right; ``references`` all ids that it names, in path and query, the most telling first;
    ``stream``: whether the query asks for a stream. Its repr leaves out the target as it came, whose query
    can hold a key.
    """

    operation: Operation
    api: Api
    deployment: str | None = None
    api_version: str | None = None
    ids: tuple[str, ...] = ()
    references: tuple[str, ...] = field(default=(), repr=False)
    stream: bool = False
    _raw: str = field(default="", repr=False)
    _deployment_span: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def deployment_in_body(self) -> bool:
        """Whether the backend reads the deployment in the body's ``model``."""
        if self.operation.in_query:
            return False
        return self.api != "classic" or self.operation.classic is not Classic.PATH

    def with_deployment(self, name: str) -> str:
        """The target as it came, with its deployment replaced by ``name`` (percent-encoded).

        Everything else stays as it is, byte for byte, the query too. Without a deployment in the path
        nothing is replaced: the body's ``model`` is to be edited then.
        """
        if self.operation.in_query:
            return _with_parameters(self._raw, self.operation.in_query, name)
        if self._deployment_span is None:
            return self._raw
        start, end = self._deployment_span
        return self._raw[:start] + quote(name, safe="") + self._raw[end:]

    def with_prefix(self, prefix: str, deployment: str | None = None) -> str:
        """The target below an endpoint's path prefix ("" or "/apim/aoai"), at ``deployment`` if given.

        A deployment in the path of an operation that Azure has elsewhere is taken out.
        """
        path = self._raw
        if self._deployment_span is not None and self.deployment_in_body:
            path = "/openai" + self._raw[self._deployment_span[1] :]
        elif deployment is not None:
            path = self.with_deployment(deployment)
        return prefix.rstrip("/") + path

    @property
    def knows_stream_options(self) -> bool:
        """Whether a stream's usage can be asked for with ``stream_options`` in this call."""
        return self.operation.takes_stream_options and knows_stream_options(self.api, self.api_version)


def dialect_of(path: str) -> Dialect:
    """The dialect that a client speaks, as far as the path of its request tells, be it right or wrong.

    ``path`` is a request target as it came. A client that asks below ``/anthropic`` has an SDK that
    understands Anthropic's errors.
    """
    segments = [part for part in path.partition("?")[0].lower().split("/") if part]
    is_short = tuple(segments[:2]) == ANTHROPIC.short
    return ANTHROPIC if is_short or segments[:1] == [ANTHROPIC.root[0]] else OPENAI


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


def _with_parameters(target: str, names: tuple[str, ...], value: str) -> str:
    """The target with these parameters of its query set to ``value``, where they are given."""
    path, mark, query = target.partition("?")
    pairs = []
    for pair in query.split("&"):
        name = pair.partition("=")[0]
        pairs.append(f"{name}={quote(value, safe='')}" if unquote_plus(name) in names else pair)
    return path + mark + "&".join(pairs)


def parse_target(method: str, path: str, *, websocket: bool = False) -> Target:
    """Read ``path``, the request target as it came (with its query), asked for with ``method``.

    ``websocket``: whether the request wants to be upgraded to one.

    Raises `GatewayError`: 400 for anything but an origin-form target (RFC 9112 §3.2.1), 404 for a path that
    is not Azure OpenAI's or a deployment that cannot be one, 405 for another method on a known path, 501
    for a family that is not served.
    """
    if len(path) > LONGEST_REMEMBERED:
        return _read(method, path, websocket=websocket)
    return _remembered(method, path, websocket)


LONGEST_REMEMBERED = 512
"""Characters of a target whose meaning is remembered; clients ask for the same few again and again."""


@lru_cache(maxsize=512)
def _remembered(method: str, path: str, websocket: bool) -> Target:
    return _read(method, path, websocket=websocket)


def _read(method: str, path: str, *, websocket: bool) -> Target:
    if method == "CONNECT" or not path.startswith("/"):
        raise errors.invalid_target(
            "This is a gateway, not a forward proxy: the request target must be a path such as "
            "/openai/v1/chat/completions. Set it as the SDK's endpoint, not as its proxy."
        )
    bare = path.partition("?")[0]
    segments = bare.split("/")  # ["", "openai", …]
    if "" not in segments[1:] and tuple(segments[1:3]) == ANTHROPIC.short:
        # From here on it is the long form, which backends know.
        segments, path = ["", ANTHROPIC.root[0], *segments[1:]], f"/{ANTHROPIC.root[0]}{path}"
    if len(segments) > 3 and tuple(segments[1:3]) == ANTHROPIC.root and "" not in segments[1:]:
        return _Reader(method, path, "anthropic", segments[3:]).read()
    if len(segments) < 3 or segments[1] != "openai" or "" in segments[1:]:
        raise _not_ours(bare)
    if segments[2] == "v1":
        return _Reader(method, path, "v1", segments[3:], websocket=websocket).read()
    if segments[2] == "deployments" and len(segments) > 4:
        start = len("/openai/deployments/")
        span = (start, start + len(segments[3]))
        deployment = unquote(segments[3])
        return _Reader(method, path, "classic", segments[4:], deployment, span, websocket=websocket).read()
    return _Reader(method, path, "classic", segments[2:], websocket=websocket).read()


_ENCODED_PLAIN = re.compile(r"%(?:2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
"""A character in the escaped form that never needs to be (RFC 3986 §2.3): ``%63hat`` is ``chat`` to servers
behind the gateway, and would be another name here."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A path whose form is known; ``rest`` are the segments of the operation."""

    method: str
    raw: str
    api: Api
    rest: list[str]
    deployment: str | None = None
    span: tuple[int, int] | None = None
    websocket: bool = False

    @property
    def dialect(self) -> Dialect:
        return ANTHROPIC if self.api == "anthropic" else OPENAI

    def read(self) -> Target:
        node, ids = self._walk()
        operations = {m: o for m, o in node.operations.items() if self._fits(o)} if node else {}
        if not operations:
            operation, ids = self._unknown(), tuple(filter(is_id, self.rest))
        elif self.method in operations:
            operation = operations[self.method]
        elif node is not None and self.method in node.operations and self.deployment is None:
            raise _not_ours(self.raw)  # its deployment belongs in the path
        else:
            plain = [method for method, each in operations.items() if not each.websocket]
            raise errors.method_not_allowed(self.method, sorted(plain or operations))
        if operation.websocket is not self.websocket:
            raise upgrade_required() if operation.websocket else no_websocket_here()
        if self.deployment is not None and not DEPLOYMENT_NAME.fullmatch(self.deployment):
            raise errors.deployment_not_found(self.deployment)
        query = self._query()
        return Target(
            operation,
            self.api,
            self._named_in(query, operation) if operation.in_query else self.deployment,
            next((value for name, value in query if name == "api-version"), None),
            ids,
            (*reversed(ids), *(value for _, value in query if is_id(value))),
            operation.streams and ("stream", "true") in query,
            self.raw,
            self.span,
        )

    def _walk(self) -> tuple[_Node | None, tuple[str, ...]]:
        """Follow the path through the table's tree. Returns where it ends, and its ids."""
        node: _Node | None = _TREES[self.dialect.name]
        ids: list[str] = []
        for segment in self.rest:
            assert node is not None
            below = node.below.get(segment)
            if below is None and unquote(segment) in node.below:
                raise _not_ours(self.raw)  # to what stands behind the gateway, it is that name
            if below is None and (below := node.below.get("{}")) is not None:
                ids.append(unquote(segment))
                if not ID.fullmatch(ids[-1]):
                    raise _not_ours(self.raw)
            if below is None:
                return None, ()
            node = below
        return node, tuple(ids)

    def _fits(self, operation: Operation) -> bool:
        """Whether it is addressed in this form, with a deployment in the path or without."""
        if self.api != "classic" or operation.classic is Classic.BODY:
            return self.deployment is None
        return operation.classic is Classic.EITHER or self.deployment is not None

    def _unknown(self) -> Operation:
        """Return an operation that is not in the table, or raise why this can be none."""
        first = self.rest[0] if self.rest else ""
        not_served = NOT_SERVED if self.dialect is OPENAI else {}
        if first in not_served and (self.api == "classic" or first not in CLASSIC_ONLY):
            raise errors.not_built(not_served[first])
        passes = self.api != "classic" and self.rest and len(self.rest) <= MOST_SEGMENTS
        if not passes or not all(ID.fullmatch(unquote(part)) for part in self.rest):
            raise _not_ours(self.raw)
        literals = _LITERALS[self.dialect.name]
        if path_hints.is_slip(self.rest, literals) or any(map(_ENCODED_PLAIN.search, self.rest)):
            raise _not_ours(self.raw)
        unknown = TABLES[self.dialect.name].unknown
        operation = unknown.get(self.method)
        if operation is None:
            raise errors.method_not_allowed(self.method, tuple(unknown))
        return operation

    def _named_in(self, query: list[tuple[str, str]], operation: Operation) -> str | None:
        """Return the deployment that the query names; all parameters that may name it must name the same."""
        named = {value for name, value in query if name in operation.in_query}
        if len(named) > 1:
            either = " or ".join(f"'{name}'" for name in operation.in_query)
            raise errors.invalid_target(f"The query names more than one deployment, in {either}.")
        for name in named:
            if not DEPLOYMENT_NAME.fullmatch(name):
                raise errors.deployment_not_found(name)
        return next(iter(named), None)

    def _query(self) -> list[tuple[str, str]]:
        query = self.raw.partition("?")[2]
        if not query:
            return []
        try:
            return parse_qsl(query, max_num_fields=64)
        except ValueError:
            raise errors.invalid_target(
                "The query has too many parameters. api-version is the one that matters."
            ) from None


def _not_ours(raw: str) -> GatewayError:
    """Return the error for an unknown path, with the one that is probably meant."""
    bare = raw.partition("?")[0]
    dialect = dialect_of(bare)
    if dialect is not OPENAI:
        return errors.not_found(
            bare, path_hints.hint_below(dialect.root, dialect.base, bare, _PATHS[dialect.name])
        )
    return errors.not_found(bare, path_hints.hint(bare, _IN_DEPLOYMENTS, _ELSEWHERE))


def unknown_path_refused(target: Target) -> GatewayError:
    """404: a path that is not in the table, where only those in it may be asked for."""
    return _not_ours(target.with_prefix(""))


@dataclass(slots=True)
class _Node:
    """A place in the tree of paths: the operations there by method, and what comes below it."""

    operations: dict[str, Operation] = field(default_factory=dict)
    below: dict[str, _Node] = field(default_factory=dict)
    """The nodes below, by segment; ``{}`` stands for an id."""


def _tree(operations: tuple[Operation, ...]) -> _Node:
    root = _Node()
    for operation in operations:
        node = root
        for segment in operation.path.split("/"):
            node = node.below.setdefault("{}" if segment.startswith("{") else segment, _Node())
        assert operation.method not in node.operations, operation
        node.operations[operation.method] = operation
    return root


_TREES = {name: _tree(table.operations) for name, table in TABLES.items()}
"""The operations of each dialect, by the segments of their paths."""

_PLAIN = [operation for operation in OPERATIONS if "{" not in operation.path]
_IN_DEPLOYMENTS = tuple(dict.fromkeys(o.path for o in _PLAIN if o.classic is Classic.PATH))
_ELSEWHERE = tuple(dict.fromkeys(o.path for o in _PLAIN if o.path not in _IN_DEPLOYMENTS))
_PATHS = {name: tuple(o.path for o in table.operations) for name, table in TABLES.items()}
"""The paths of each dialect."""

_LITERALS = {
    name: frozenset(
        "/".join(segments[: count + 1])
        for segments in (path.split("/") for path in paths)
        for count in range(len(segments))
    )
    for name, paths in _PATHS.items()
}
"""The paths of each dialect's table and their beginnings, with ``{…}`` in them."""
