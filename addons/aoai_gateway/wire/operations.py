"""The operations of Azure's resources, as one table: how each is addressed, classed and answered.

A row says how a request is addressed (method, path, where the deployment stands), what its body is, how it is
answered, whether its answer names state that lives at one resource, and whether it costs tokens. Parsing,
policy, replay and affinity read the row; none of them knows a path of its own. What reads a prompt, a usage
or a price knows the operation by its name.

Names are those of the official SDKs' methods (``files.content``), paths those below ``/openai/v1/`` and
``/openai/`` (Azure OpenAI REST reference, and its v1 specification), or below the root of another dialect
(`wire.dialects`). A segment in braces takes an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from aoai_gateway.wire.dialects import ANTHROPIC, OPENAI, Dialect


class Model(Enum):
    """Whether a request names a deployment: in the body's ``model``, be that JSON or a form."""

    NONE = auto()
    """It does not: any endpoint that the client may use serves it, as far as ids do not decide."""
    OPTIONAL = auto()
    REQUIRED = auto()
    LINES = auto()
    """In each line of a file, where the form says that it is a batch's input (`wire.batch_file`)."""

    @property
    def in_body(self) -> bool:
        """Whether the body's ``model`` names a deployment."""
        return self in (Model.OPTIONAL, Model.REQUIRED)


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
    counts the bound of the answer when the call comes, and not only the answer as it is written.
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

    def __reduce__(self) -> tuple[object, ...]:
        """Stay the same object in another process: operations are compared by identity."""
        return _operation, (self.dialect.name, self.method, self.path)

    @property
    def family(self) -> str:
        """The family that it belongs to, by its SDK name's beginning: ``files`` of ``files.content``."""
        return self.name.partition(".")[0]

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


CHAT_COMPLETIONS = Operation(
    "chat.completions",
    "POST",
    "chat/completions",
    Model.REQUIRED,
    Classic.PATH,
    Body.JSON,
    State.IF_STORED,
    Cost.ANSWER,
    streams=True,
    takes_stream_options=True,
    paced=True,
    bounds=("max_completion_tokens", "max_tokens"),
)
COMPLETIONS = Operation(
    "completions",
    "POST",
    "completions",
    Model.REQUIRED,
    Classic.PATH,
    Body.JSON,
    cost=Cost.ANSWER,
    streams=True,
    takes_stream_options=True,
    paced=True,
    bounds=("max_tokens",),
)
EMBEDDINGS = Operation(
    "embeddings",
    "POST",
    "embeddings",
    Model.REQUIRED,
    Classic.PATH,
    Body.JSON,
    cost=Cost.PROMPT,
    paced=True,
)
# A stored response is state, but an orphan of it does no harm; a background one runs on, and the body tells.
RESPONSES = Operation(
    "responses",
    "POST",
    "responses",
    Model.REQUIRED,
    Classic.EITHER,
    Body.JSON,
    State.ALWAYS,
    Cost.ANSWER,
    streams=True,
    paced=True,
    bounds=("max_output_tokens",),
)
# It leaves nothing behind; files that it names do lie at one resource.
MESSAGES = Operation(
    "messages",
    "POST",
    "messages",
    Model.REQUIRED,
    body=Body.JSON,
    state=State.IF_STORED,
    cost=Cost.ANSWER,
    streams=True,
    paced=True,
    bounds=("max_tokens",),
    dialect=ANTHROPIC,
    reserves=False,  # "Rate limits", Anthropic: max_tokens does not count, and may be as high as one likes
)
# A session of transcription names no model but in its settings. Azure's preview has `deployment`, v1 `model`.
REALTIME = Operation(
    "realtime",
    "GET",
    "realtime",
    Model.OPTIONAL,
    Classic.BODY,
    cost=Cost.ANSWER,
    websocket=True,
    in_query=("model", "deployment"),
)
# Responses over a WebSocket: each message of the client's is what the body of a request would be.
RESPONSES_SOCKET = Operation(
    "responses.connect",
    "GET",
    "responses",
    Model.REQUIRED,
    Classic.EITHER,
    Body.JSON,
    State.ALWAYS,
    Cost.ANSWER,
    bounds=("max_output_tokens",),
    websocket=True,
    opened_by="response.create",
)
LIVE = Operation(
    "live.connect",
    "GET",
    "live",
    Model.REQUIRED,
    body=Body.JSON,
    cost=Cost.ANSWER,
    websocket=True,
    opened_by="session.start",
    model_in=(("session", "model"),),
)
MODELS = Operation("models", "GET", "models")
MODEL = Operation("models.retrieve", "GET", "models/{model}")


def _on_deployment(
    name: str, path: str, body: Body, cost: Cost, *, streams: bool = False, binary: bool = False
) -> Operation:
    """Make a row of an operation of one deployment that leaves nothing behind."""
    where = (Model.REQUIRED, Classic.PATH)
    return Operation(name, "POST", path, *where, body, cost=cost, streams=streams, binary=binary)


_METHODS: Mapping[str, str] = {
    "create": "POST",
    "update": "POST",
    "list": "GET",
    "retrieve": "GET",
    "delete": "DELETE",
}


def _kept(collection: str, name: str, *verbs: str) -> Iterator[Operation]:
    """Make the rows of a collection of things that live at one resource, by their usual verbs.

    The last part of ``name`` in the singular is the name of the id.
    """
    things = name.rpartition(".")[2]
    thing = things.removesuffix("es" if things.endswith("ches") else "s")
    for verb in verbs:
        path = collection if verb in ("create", "list") else f"{collection}/{{{thing}_id}}"
        yield _act(f"{name}.{verb}", _METHODS[verb], path, creates=verb == "create")


def _act(
    name: str,
    method: str,
    path: str,
    *,
    body: Body | None = None,
    model: Model = Model.NONE,
    cost: Cost = Cost.NONE,
    streams: bool = False,
    binary: bool = False,
    creates: bool = False,
    bounds: tuple[str, ...] = (),
) -> Operation:
    """Make a row of an operation on what lives at one resource."""
    if body is None:
        body = Body.JSON if method == "POST" else Body.NONE
    return Operation(
        name,
        method,
        path,
        model,
        Classic.BODY,
        body,
        State.ALWAYS,
        cost,
        streams=streams,
        binary=binary,
        creates=creates,
        bounds=bounds,
    )


_ALL = ("create", "list", "retrieve", "update", "delete")
_RUN_BOUNDS = ("max_completion_tokens",)
_GENERATION = "video/generations/{generation_id}"
_JOBS, _JOB_PATH = "video.generations.jobs", "video/generations/jobs"
_SESSION_MODELS = (
    ("session", "model"),
    ("session", "audio", "input", "transcription", "model"),
    ("input_audio_transcription", "model"),
)
FOR_BATCHES = ("purpose", "batch")
"""The member, of a form or of JSON, that makes a file a batch's input."""

_RUN = "threads/{thread_id}/runs/{run_id}"

OPERATIONS: tuple[Operation, ...] = (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    # audio, images
    _on_deployment("audio.transcriptions", "audio/transcriptions", Body.FORM, Cost.ANSWER, streams=True),
    _on_deployment("audio.translations", "audio/translations", Body.FORM, Cost.ANSWER),
    _on_deployment("audio.speech", "audio/speech", Body.JSON, Cost.PROMPT, binary=True),
    _on_deployment("images.generations", "images/generations", Body.JSON, Cost.ANSWER, streams=True),
    _on_deployment("images.edits", "images/edits", Body.FORM, Cost.ANSWER, streams=True),
    # responses, and what is stored of them
    RESPONSES,
    _act("responses.retrieve", "GET", "responses/{response_id}", streams=True),
    _act("responses.delete", "DELETE", "responses/{response_id}"),
    _act("responses.cancel", "POST", "responses/{response_id}/cancel"),
    _act("responses.input_items", "GET", "responses/{response_id}/input_items"),
    _act("responses.compact", "POST", "responses/compact", model=Model.REQUIRED, cost=Cost.ANSWER),
    _act("responses.input_tokens", "POST", "responses/input_tokens", model=Model.REQUIRED),
    *_kept("conversations", "conversations", "create", "retrieve", "update", "delete"),
    *_kept("conversations/{conversation_id}/items", "conversations.items", "create", "list"),
    *_kept("conversations/{conversation_id}/items", "conversations.items", "retrieve", "delete"),
    # stored chat completions
    *_kept("chat/completions", "chat.completions", "list", "retrieve", "update", "delete"),
    _act("chat.completions.messages", "GET", "chat/completions/{completion_id}/messages"),
    # files, and what is made of them
    _act("files.create", "POST", "files", body=Body.FORM, model=Model.LINES, creates=True),
    *_kept("files", "files", "list", "retrieve", "delete"),
    _act("files.content", "GET", "files/{file_id}/content", binary=True),
    replace(_act("files.import", "POST", "files/import", creates=True), unread_lines=FOR_BATCHES),
    replace(_act("uploads.create", "POST", "uploads", creates=True), unread_lines=FOR_BATCHES),
    _act("uploads.parts", "POST", "uploads/{upload_id}/parts", body=Body.FORM, creates=True),
    _act("uploads.complete", "POST", "uploads/{upload_id}/complete", creates=True),
    _act("uploads.cancel", "POST", "uploads/{upload_id}/cancel"),
    replace(_act("batches.create", "POST", "batches", creates=True), unread_lines=("input_blob", "")),
    *_kept("batches", "batches", "list", "retrieve"),
    _act("batches.cancel", "POST", "batches/{batch_id}/cancel"),
    *_kept("vector_stores", "vector_stores", *_ALL),
    _act("vector_stores.search", "POST", "vector_stores/{vector_store_id}/search"),
    *_kept("vector_stores/{vector_store_id}/files", "vector_stores.files", *_ALL),
    _act("vector_stores.files.content", "GET", "vector_stores/{vector_store_id}/files/{file_id}/content"),
    *_kept(
        "vector_stores/{vector_store_id}/file_batches", "vector_stores.file_batches", "create", "retrieve"
    ),
    _act(
        "vector_stores.file_batches.cancel",
        "POST",
        "vector_stores/{vector_store_id}/file_batches/{file_batch_id}/cancel",
    ),
    _act(
        "vector_stores.file_batches.files",
        "GET",
        "vector_stores/{vector_store_id}/file_batches/{file_batch_id}/files",
    ),
    *_kept("containers", "containers", "create", "list", "retrieve", "delete"),
    _act(
        "containers.files.create",
        "POST",
        "containers/{container_id}/files",
        body=Body.ANY,
        creates=True,
    ),
    *_kept("containers/{container_id}/files", "containers.files", "list", "retrieve", "delete"),
    _act(
        "containers.files.content",
        "GET",
        "containers/{container_id}/files/{file_id}/content",
        binary=True,
    ),
    # assistants, threads
    _act("assistants.create", "POST", "assistants", model=Model.REQUIRED, creates=True),
    _act("assistants.update", "POST", "assistants/{assistant_id}", model=Model.OPTIONAL),
    *_kept("assistants", "assistants", "list", "retrieve", "delete"),
    *_kept("threads", "threads", "create", "retrieve", "update", "delete"),
    *_kept("threads/{thread_id}/messages", "threads.messages", *_ALL),
    _act(
        "threads.runs.create",
        "POST",
        "threads/{thread_id}/runs",
        model=Model.OPTIONAL,
        cost=Cost.ANSWER,
        streams=True,
        creates=True,
        bounds=_RUN_BOUNDS,
    ),
    _act(
        "threads.create_and_run",
        "POST",
        "threads/runs",
        model=Model.OPTIONAL,
        cost=Cost.ANSWER,
        streams=True,
        creates=True,
        bounds=_RUN_BOUNDS,
    ),
    *_kept("threads/{thread_id}/runs", "threads.runs", "list", "retrieve", "update"),
    _act("threads.runs.cancel", "POST", f"{_RUN}/cancel"),
    _act(
        "threads.runs.submit_tool_outputs",
        "POST",
        f"{_RUN}/submit_tool_outputs",
        cost=Cost.ANSWER,
        streams=True,
        creates=True,
    ),
    *_kept(f"{_RUN}/steps", "threads.runs.steps", "list", "retrieve"),
    RESPONSES_SOCKET,
    # realtime sessions
    REALTIME,
    LIVE,
    _act("live.create", "POST", "live/sessions", model=Model.OPTIONAL, creates=True),
    _act("live.content", "GET", "live/sessions/{live_id}/content"),
    *(
        _act(f"live.{verb}", "POST", f"live/sessions/{{live_id}}/{verb}", creates=verb in ("refer", "fork"))
        for verb in ("accept", "fork", "hangup", "refer", "reject")
    ),
    *(
        Operation(
            f"realtime.{path.replace('/', '.')}.create",
            "POST",
            f"realtime/{path}",
            Model.OPTIONAL,
            body=Body.JSON,
            state=State.ALWAYS,
            model_in=_SESSION_MODELS,
            mints=True,
        )
        # The last two are those of Azure's previews.
        for path in ("client_secrets", "translations/client_secrets", "sessions", "transcription_sessions")
    ),
    *(
        _act(f"realtime.calls.{verb}", "POST", f"realtime/calls/{{call_id}}/{verb}", creates=verb == "refer")
        for verb in ("accept", "hangup", "refer", "reject")
    ),
    Operation(
        "realtime.calls.create",
        "POST",
        "realtime/calls",
        Model.OPTIONAL,
        body=Body.ANY,
        state=State.ALWAYS,
        creates=True,
        model_in=_SESSION_MODELS,
    ),
    # fine-tuning, evals
    *_kept("fine_tuning/jobs", "fine_tuning.jobs", "create", "list", "retrieve", "delete"),
    *(
        _act(f"fine_tuning.jobs.{verb}", "POST", f"fine_tuning/jobs/{{job_id}}/{verb}")
        for verb in ("cancel", "pause", "resume")
    ),
    _act("fine_tuning.jobs.events", "GET", "fine_tuning/jobs/{job_id}/events"),
    _act("fine_tuning.jobs.checkpoints", "GET", "fine_tuning/jobs/{job_id}/checkpoints"),
    _act(
        "fine_tuning.jobs.checkpoints.copy",
        "POST",
        "fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/copy",
        creates=True,
    ),
    _act("fine_tuning.alpha.graders.run", "POST", "fine_tuning/alpha/graders/run"),
    _act("fine_tuning.alpha.graders.validate", "POST", "fine_tuning/alpha/graders/validate"),
    *_kept("evals", "evals", *_ALL),
    # A run asks a deployment for the answers that it grades.
    replace(
        _act("evals.runs.create", "POST", "evals/{eval_id}/runs", model=Model.OPTIONAL, creates=True),
        model_in=(("data_source", "model"),),
    ),
    *_kept("evals/{eval_id}/runs", "evals.runs", "list", "retrieve", "delete"),
    _act("evals.runs.cancel", "POST", "evals/{eval_id}/runs/{run_id}/cancel"),
    # Azure's first form of it.
    _act("evals.runs.update", "POST", "evals/{eval_id}/runs/{run_id}"),
    *_kept("evals/{eval_id}/runs/{run_id}/output_items", "evals.runs.output_items", "list", "retrieve"),
    # videos
    _act("videos.create", "POST", "videos", body=Body.FORM, model=Model.REQUIRED, creates=True),
    *_kept("videos", "videos", "list", "retrieve", "delete"),
    _act("videos.content", "GET", "videos/{video_id}/content", binary=True),
    _act("videos.remix", "POST", "videos/{video_id}/remix", body=Body.FORM, creates=True),
    # the same before it was OpenAI's, in Azure's first preview
    _act(f"{_JOBS}.create", "POST", _JOB_PATH, body=Body.FORM, model=Model.REQUIRED, creates=True),
    *_kept(_JOB_PATH, _JOBS, "list", "retrieve", "delete"),
    _act("video.generations.retrieve", "GET", _GENERATION),
    *(
        _act(
            f"video.generations.{what}",
            "GET",
            f"video/generations/{{generation_id}}/content/{what}",
            binary=True,
        )
        for what in ("video", "thumbnail")
    ),
    MODELS,
    MODEL,
)

CLAUDES: tuple[Operation, ...] = (
    MESSAGES,
    Operation(
        "messages.count_tokens",
        "POST",
        "messages/count_tokens",
        Model.REQUIRED,
        body=Body.JSON,
        dialect=ANTHROPIC,
    ),
    Operation("models", "GET", "models", dialect=ANTHROPIC),
    Operation("models.retrieve", "GET", "models/{model}", dialect=ANTHROPIC),
)
"""Those of Claude ("Claude in Microsoft Foundry", Anthropic). Azure has no list of models there; the gateway
has one of its own."""

UNKNOWN_NAME = "unknown"


def _unknown(dialect: Dialect) -> Mapping[str, Operation]:
    return {
        method: Operation(
            UNKNOWN_NAME,
            method,
            "*",
            Model.OPTIONAL,
            body=Body.NONE if method in ("GET", "DELETE") else Body.ANY,
            state=State.ALWAYS,
            cost=Cost.NONE if method in ("GET", "DELETE") else Cost.ANSWER,
            streams=method in ("GET", "POST"),
            creates=method not in ("GET", "DELETE"),
            dialect=dialect,
        )
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    }


UNKNOWN: Mapping[str, Operation] = _unknown(OPENAI)
"""Operations of the v1 API that are not in the table, by method: nothing is known of them but that."""

CLAUDES_UNKNOWN: Mapping[str, Operation] = _unknown(ANTHROPIC)

NOT_SERVED: Mapping[str, str] = {
    "deployments": "the management of deployments",
    "extensions": "chat completions extensions",
}
"""First segments of paths that Azure OpenAI has and the gateway does not serve → the family's name."""

CLASSIC_ONLY = frozenset({"deployments", "extensions"})
"""Those of them that the v1 API does not have."""


@dataclass(slots=True)
class Node:
    """A place in the tree of paths: the operations there by method, and what comes below it."""

    operations: dict[str, Operation] = field(default_factory=dict)
    below: dict[str, Node] = field(default_factory=dict)
    """By segment; ``{}`` stands for an id."""


def _tree(operations: tuple[Operation, ...]) -> Node:
    root = Node()
    for operation in operations:
        node = root
        for segment in operation.path.split("/"):
            node = node.below.setdefault("{}" if segment.startswith("{") else segment, Node())
        assert operation.method not in node.operations, operation
        node.operations[operation.method] = operation
    return root


@dataclass(frozen=True, slots=True)
class Table:
    """All operations of a dialect."""

    operations: tuple[Operation, ...]
    unknown: Mapping[str, Operation]
    tree: Node
    """The operations by the segments of their paths."""


TABLES: Mapping[str, Table] = {
    OPENAI.name: Table(OPERATIONS, UNKNOWN, _tree(OPERATIONS)),
    ANTHROPIC.name: Table(CLAUDES, CLAUDES_UNKNOWN, _tree(CLAUDES)),
}
"""By the dialect's name."""

_BY_REQUEST: Mapping[tuple[str, str, str], Operation] = {
    (operation.dialect.name, operation.method, operation.path): operation
    for table in TABLES.values()
    for operation in (*table.operations, *table.unknown.values())
}


def _operation(dialect: str, method: str, path: str) -> Operation:
    return _BY_REQUEST[dialect, method, path]
