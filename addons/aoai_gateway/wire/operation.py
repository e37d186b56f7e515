"""An operation of Azure's resources: how a request for it is addressed, and what its answer is.

It says how a request is addressed (method, path, where the deployment stands), what its body is, how it is
answered, whether its answer names state that lives at one resource, and whether it costs tokens. The table of
all operations is `wire.operations`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from aoai_gateway.wire.dialects import OPENAI, Dialect


class Model(Enum):
    """Whether a request names a deployment: in the body's ``model``, be that JSON or a form."""

    NONE = auto()
    """It does not: any endpoint that the client may use serves it, as far as ids do not decide."""
    OPTIONAL = auto()
    REQUIRED = auto()
    LINES = auto()
    """In each line of a file, where the form says that it is a batch's input (`wire.batch_file`)."""


NAMED_IN_BODY = (Model.OPTIONAL, Model.REQUIRED)
"""Where the body's ``model`` names a deployment."""


class Classic(Enum):
    """Where the deployment stands in the classic form of the API."""

    BODY = auto()
    PATH = auto()
    """``/openai/deployments/{deployment}/…``, and nowhere else."""
    EITHER = auto()
    """Azure reads the body. Clients also send a path with a deployment, which is taken out of it."""


class Body(Enum):
    """What a request's body is."""

    NONE = auto()
    JSON = auto()
    FORM = auto()
    """A form (multipart/form-data); where Azure takes JSON as well, that is read, too."""
    ANY = auto()
    """Unknown: JSON and forms are read, anything else passes as it is."""


class State(Enum):
    """Whether an answer names state that only the resource which gave it has."""

    NONE = auto()
    IF_STORED = auto()
    """Only where the request says ``"store": true``."""
    ALWAYS = auto()


class Cost(Enum):
    """The tokens that a call costs."""

    NONE = auto()
    PROMPT = auto()
    """Those of the prompt. The answer has no tokens."""
    ANSWER = auto()
    """Those of the prompt and the answer; the answer tells, or a stream's end."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a client can ask for.

    ``streams``: it can answer with server-sent events; ``takes_stream_options``: the usage of a stream must
    be asked for with ``stream_options.include_usage``; ``binary``: the answer is no text, and goes out as it
    comes; ``creates``: every call leaves something behind at one resource, so it may be sent again only when
    it surely was not taken; ``paced``: how long other answers took tells how long this one takes;
    ``websocket``: it is asked for with ``Upgrade: websocket``, and is a session of messages; ``in_query``:
    the parameters of the query that name the deployment, where neither path nor body does; ``model_in``:
    where in a JSON body ``model`` may stand if not at its top, the places in their order; ``mints``: its
    answer gives a secret that opens sessions; ``opened_by``: the type of the client's first message, where it
    is that which asks for something, as the body of a request does; ``reserves``: the limiter of a backend
    counts the bound of the answer when the call comes, and not only the answer as it is written; ``known``:
    it is one that the gateway knows, and not any other path.
    """

    name: str
    method: str
    path: str
    model: Model = Model.NONE
    classic: Classic = Classic.BODY
    body: Body = Body.NONE
    state: State = State.NONE
    cost: Cost = Cost.NONE
    streams: bool = False
    takes_stream_options: bool = False
    binary: bool = False
    creates: bool = False
    paced: bool = False
    bounds: tuple[str, ...] = ()
    """The body's members that bound the answer's tokens; the first one is added where none is given."""
    dialect: Dialect = OPENAI
    websocket: bool = False
    in_query: tuple[str, ...] = ()
    model_in: tuple[tuple[str, ...], ...] = ()
    mints: bool = False
    opened_by: str = ""
    unread_lines: tuple[str, str] | None = None
    """A member of the body, and its value (empty: any), that tells of lines of a batch which are not read, as
    they come in parts or lie elsewhere."""
    reserves: bool = True
    known: bool = True
    family: str = field(init=False)
    """The family that it belongs to, by its SDK name's beginning: ``files`` of ``files.content``."""

    may_be_file: bool = field(init=False)
    """Whether its answer may be a file."""

    def __post_init__(self) -> None:
        # Once, and not with each call.
        object.__setattr__(self, "family", self.name.partition(".")[0])
        object.__setattr__(self, "may_be_file", self.binary or not self.known)

    @property
    def address(self) -> str:
        """Its path, where no deployment stands in it; ids as ``{…}``."""
        return "/" + "/".join((*self.dialect.root, self.path))

    @property
    def prompt_form(self) -> str:
        """The name of the operation that has the prompt in the same form."""
        return self.family if self.opened_by else self.name

    @property
    def has_prompt(self) -> bool:
        """Whether it is one whose prompt people read, send again and compare: a model's, in JSON."""
        return self.paced
