"""The operations of Azure's resources, as one table: how each is addressed, classed and answered.

Each row is an `Operation`. Parsing, policy, replay and affinity read the row; no other module has a path of
its own. What reads a prompt, a usage or a price knows the operation by its name.

Names are those of the official SDKs' methods (``files.content``), paths those below ``/openai/v1/`` and
``/openai/`` (Azure OpenAI REST reference, and its v1 specification), or below the root of another dialect
(`wire.dialects`). A segment in braces takes an id.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from aoai_gateway.wire.dialects import ANTHROPIC, OPENAI, Dialect
from aoai_gateway.wire.operation import Body, Classic, Cost, Model, Operation, State

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


# An operation of one deployment, which leaves nothing behind.
_on_deployment = partial(Operation, method="POST", model=Model.REQUIRED, classic=Classic.PATH)

# Operations on what lives at one resource.
_get = partial(Operation, method="GET", state=State.ALWAYS)
_post = partial(Operation, method="POST", body=Body.JSON, state=State.ALWAYS)
_delete = partial(Operation, method="DELETE", state=State.ALWAYS)

_ACTIONS = ("accept", "cancel", "hangup", "pause", "reject", "resume", "search")
"""What is done with one thing of a collection, at a path of its own below it."""

_VERBS: Mapping[str, Callable[..., Operation]] = {
    "create": partial(_post, creates=True),
    "update": _post,
    "list": _get,
    "retrieve": _get,
    "delete": _delete,
    **dict.fromkeys(_ACTIONS, _post),
}


def _kept(collection: str, name: str, *verbs: str) -> Iterator[Operation]:
    """Make the rows of a collection of things that live at one resource, by their usual verbs or `_ACTIONS`.

    The last part of ``name`` in the singular is the name of the id.
    """
    things = name.rpartition(".")[2]
    thing = things.removesuffix("es" if things.endswith("ches") else "s")
    for verb in verbs:
        path = collection if verb in ("create", "list") else f"{collection}/{{{thing}_id}}"
        if verb in _ACTIONS:
            path += f"/{verb}"
        yield _VERBS[verb](f"{name}.{verb}", path=path)


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
_FILE_BATCHES = "vector_stores/{vector_store_id}/file_batches"

OPERATIONS: tuple[Operation, ...] = (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    # audio, images
    _on_deployment(
        "audio.transcriptions", path="audio/transcriptions", body=Body.FORM, cost=Cost.ANSWER, streams=True
    ),
    _on_deployment("audio.translations", path="audio/translations", body=Body.FORM, cost=Cost.ANSWER),
    _on_deployment("audio.speech", path="audio/speech", body=Body.JSON, cost=Cost.PROMPT, binary=True),
    _on_deployment(
        "images.generations", path="images/generations", body=Body.JSON, cost=Cost.ANSWER, streams=True
    ),
    _on_deployment("images.edits", path="images/edits", body=Body.FORM, cost=Cost.ANSWER, streams=True),
    # responses, and what is stored of them
    RESPONSES,
    _get("responses.retrieve", path="responses/{response_id}", streams=True),
    *_kept("responses", "responses", "delete", "cancel"),
    _get("responses.input_items", path="responses/{response_id}/input_items"),
    _post("responses.compact", path="responses/compact", model=Model.REQUIRED, cost=Cost.ANSWER),
    _post("responses.input_tokens", path="responses/input_tokens", model=Model.REQUIRED),
    *_kept("conversations", "conversations", "create", "retrieve", "update", "delete"),
    *_kept("conversations/{conversation_id}/items", "conversations.items", "create", "list"),
    *_kept("conversations/{conversation_id}/items", "conversations.items", "retrieve", "delete"),
    # stored chat completions
    *_kept("chat/completions", "chat.completions", "list", "retrieve", "update", "delete"),
    _get("chat.completions.messages", path="chat/completions/{completion_id}/messages"),
    # files, and what is made of them
    _post("files.create", path="files", body=Body.FORM, model=Model.LINES, creates=True),
    *_kept("files", "files", "list", "retrieve", "delete"),
    _get("files.content", path="files/{file_id}/content", binary=True),
    _post("files.import", path="files/import", creates=True, unread_lines=FOR_BATCHES),
    _post("uploads.create", path="uploads", creates=True, unread_lines=FOR_BATCHES),
    _post("uploads.parts", path="uploads/{upload_id}/parts", body=Body.FORM, creates=True),
    _post("uploads.complete", path="uploads/{upload_id}/complete", creates=True),
    _post("uploads.cancel", path="uploads/{upload_id}/cancel"),
    _post("batches.create", path="batches", creates=True, unread_lines=("input_blob", "")),
    *_kept("batches", "batches", "list", "retrieve", "cancel"),
    *_kept("vector_stores", "vector_stores", *_ALL, "search"),
    *_kept("vector_stores/{vector_store_id}/files", "vector_stores.files", *_ALL),
    _get("vector_stores.files.content", path="vector_stores/{vector_store_id}/files/{file_id}/content"),
    *_kept(_FILE_BATCHES, "vector_stores.file_batches", "create", "retrieve", "cancel"),
    _get("vector_stores.file_batches.files", path=f"{_FILE_BATCHES}/{{file_batch_id}}/files"),
    *_kept("containers", "containers", "create", "list", "retrieve", "delete"),
    _post("containers.files.create", path="containers/{container_id}/files", body=Body.ANY, creates=True),
    *_kept("containers/{container_id}/files", "containers.files", "list", "retrieve", "delete"),
    _get("containers.files.content", path="containers/{container_id}/files/{file_id}/content", binary=True),
    # assistants, threads
    _post("assistants.create", path="assistants", model=Model.REQUIRED, creates=True),
    _post("assistants.update", path="assistants/{assistant_id}", model=Model.OPTIONAL),
    *_kept("assistants", "assistants", "list", "retrieve", "delete"),
    *_kept("threads", "threads", "create", "retrieve", "update", "delete"),
    *_kept("threads/{thread_id}/messages", "threads.messages", *_ALL),
    _post(
        "threads.runs.create",
        path="threads/{thread_id}/runs",
        model=Model.OPTIONAL,
        cost=Cost.ANSWER,
        streams=True,
        creates=True,
        bounds=_RUN_BOUNDS,
    ),
    _post(
        "threads.create_and_run",
        path="threads/runs",
        model=Model.OPTIONAL,
        cost=Cost.ANSWER,
        streams=True,
        creates=True,
        bounds=_RUN_BOUNDS,
    ),
    *_kept("threads/{thread_id}/runs", "threads.runs", "list", "retrieve", "update", "cancel"),
    _post(
        "threads.runs.submit_tool_outputs",
        path=f"{_RUN}/submit_tool_outputs",
        cost=Cost.ANSWER,
        streams=True,
        creates=True,
    ),
    *_kept(f"{_RUN}/steps", "threads.runs.steps", "list", "retrieve"),
    RESPONSES_SOCKET,
    # realtime sessions
    REALTIME,
    LIVE,
    _post("live.create", path="live/sessions", model=Model.OPTIONAL, creates=True),
    _get("live.content", path="live/sessions/{live_id}/content"),
    *(
        _post(f"live.{verb}", path=f"live/sessions/{{live_id}}/{verb}", creates=verb in ("refer", "fork"))
        for verb in ("accept", "fork", "hangup", "refer", "reject")
    ),
    *(
        _post(
            f"realtime.{path.replace('/', '.')}.create",
            path=f"realtime/{path}",
            model=Model.OPTIONAL,
            model_in=_SESSION_MODELS,
            mints=True,
        )
        # The last two are those of Azure's previews.
        for path in ("client_secrets", "translations/client_secrets", "sessions", "transcription_sessions")
    ),
    *_kept("realtime/calls", "realtime.calls", "accept", "hangup", "reject"),
    _post("realtime.calls.refer", path="realtime/calls/{call_id}/refer", creates=True),
    _post(
        "realtime.calls.create",
        path="realtime/calls",
        model=Model.OPTIONAL,
        body=Body.ANY,
        creates=True,
        model_in=_SESSION_MODELS,
    ),
    # fine-tuning, evals
    *_kept("fine_tuning/jobs", "fine_tuning.jobs", "create", "list", "retrieve", "delete"),
    *_kept("fine_tuning/jobs", "fine_tuning.jobs", "cancel", "pause", "resume"),
    _get("fine_tuning.jobs.events", path="fine_tuning/jobs/{job_id}/events"),
    _get("fine_tuning.jobs.checkpoints", path="fine_tuning/jobs/{job_id}/checkpoints"),
    _post(
        "fine_tuning.jobs.checkpoints.copy",
        path="fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/copy",
        creates=True,
    ),
    _post("fine_tuning.alpha.graders.run", path="fine_tuning/alpha/graders/run"),
    _post("fine_tuning.alpha.graders.validate", path="fine_tuning/alpha/graders/validate"),
    *_kept("evals", "evals", *_ALL),
    # A run asks a deployment for the answers that it grades.
    _post(
        "evals.runs.create",
        path="evals/{eval_id}/runs",
        model=Model.OPTIONAL,
        creates=True,
        model_in=(("data_source", "model"),),
    ),
    # Azure's first form of cancel is update.
    *_kept("evals/{eval_id}/runs", "evals.runs", "list", "retrieve", "delete", "cancel", "update"),
    *_kept("evals/{eval_id}/runs/{run_id}/output_items", "evals.runs.output_items", "list", "retrieve"),
    # videos
    _post("videos.create", path="videos", body=Body.FORM, model=Model.REQUIRED, creates=True),
    *_kept("videos", "videos", "list", "retrieve", "delete"),
    _get("videos.content", path="videos/{video_id}/content", binary=True),
    _post("videos.remix", path="videos/{video_id}/remix", body=Body.FORM, creates=True),
    # the same before it was OpenAI's, in Azure's first preview
    _post(f"{_JOBS}.create", path=_JOB_PATH, body=Body.FORM, model=Model.REQUIRED, creates=True),
    *_kept(_JOB_PATH, _JOBS, "list", "retrieve", "delete"),
    _get("video.generations.retrieve", path=_GENERATION),
    *(
        _get(
            f"video.generations.{what}",
            path=f"video/generations/{{generation_id}}/content/{what}",
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
            known=False,
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


@dataclass(frozen=True, slots=True)
class Table:
    """All operations of a dialect."""

    operations: tuple[Operation, ...]
    unknown: Mapping[str, Operation]
    """Those that are not in the table, by method."""


TABLES: Mapping[str, Table] = {
    OPENAI.name: Table(OPERATIONS, UNKNOWN),
    ANTHROPIC.name: Table(CLAUDES, CLAUDES_UNKNOWN),
}
"""The tables by the dialect's name."""

_BY_REQUEST: Mapping[tuple[str, str, str], Operation] = {
    (operation.dialect.name, operation.method, operation.path): operation
    for table in TABLES.values()
    for operation in (*table.operations, *table.unknown.values())
}


def _found(dialect: str, method: str, path: str) -> Operation:
    return _BY_REQUEST[dialect, method, path]


def _reduced(operation: Operation) -> tuple[Callable[..., Operation], tuple[str, str, str]]:
    return _found, (operation.dialect.name, operation.method, operation.path)


# An operation stays the same object in another process: operations are compared by identity.
copyreg.pickle(Operation, _reduced)
