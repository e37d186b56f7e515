"""The stored things of a resource beside responses, by one set of rules: files, threads, vector stores, ….

A collection takes POST (create) and GET (list); a thing in it GET, POST (update) and DELETE; an action is a
POST or GET below a thing. All ids, in paths and in bodies, must be of this resource, as in AOAI.
"""

from __future__ import annotations

import random
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from aoai_simulator import batches, evaluations, media, runs
from aoai_simulator.replies import Reply, Whole, error, json_reply
from aoai_simulator.requests import Request, Sent, read_sent

MAX_THINGS = 2_000
"""The number of things that a resource keeps; the oldest goes first."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing: the prefix of its ids, its ``object``, and its members beside those sent."""

    prefix: str
    name: str
    said: Mapping[str, Any] = field(default_factory=dict)
    updates: bool = False


_DONE = {"status": "completed"}
_COUNTS = {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0, "total": 1}

KINDS: Mapping[str, Kind] = {
    "assistants": Kind("asst_", "assistant", {"tools": [], "metadata": {}}, updates=True),
    "batches": Kind("batch_", "batch", {"status": "validating"}),
    "chat/completions": Kind("chatcmpl-", "chat.completion", updates=True),
    "chat/completions/{}/messages": Kind("", "chat.completion.message"),
    "containers": Kind("cntr_", "container", {"status": "running"}),
    "containers/{}/files": Kind("cfile_", "container.file", {"source": "user"}),
    "conversations": Kind("conv_", "conversation", {"metadata": {}}, updates=True),
    "conversations/{}/items": Kind("msg_", "message", _DONE),
    "evals": Kind("eval_", "eval", {"metadata": {}}, updates=True),
    "evals/{}/runs": Kind("evalrun_", "eval.run", {"status": "queued"}, updates=True),
    "evals/{}/runs/{}/output_items": Kind("outputitem_", "eval.run.output_item"),
    "files": Kind("file-", "file", {"status": "processed"}),
    "fine_tuning/jobs": Kind("ftjob-", "fine_tuning.job", {"status": "pending"}),
    "fine_tuning/jobs/{}/checkpoints": Kind("ftckpt_", "fine_tuning.job.checkpoint"),
    "fine_tuning/jobs/{}/events": Kind("ftevent-", "fine_tuning.job.event"),
    "threads": Kind("thread_", "thread", {"metadata": {}}, updates=True),
    "threads/{}/messages": Kind("msg_", "thread.message", {"metadata": {}}, updates=True),
    "threads/{}/runs": Kind("run_", "thread.run", {**_DONE, "usage": dict(runs.USAGE)}, updates=True),
    "threads/{}/runs/{}/steps": Kind("step_", "thread.run.step", _DONE),
    "uploads": Kind("upload_", "upload", {"status": "pending"}),
    "uploads/{}/parts": Kind("part_", "upload.part"),
    "vector_stores": Kind("vs_", "vector_store", {**_DONE, "file_counts": _COUNTS}, updates=True),
    "vector_stores/{}/file_batches": Kind("vsfb_", "vector_store.file_batch", _DONE),
    "vector_stores/{}/files": Kind("file-", "vector_store.file", _DONE, updates=True),
    "video/generations/jobs": Kind("task_", "video.generation.job", {"status": "succeeded"}),
    "videos": Kind("video_", "video", {**_DONE, "progress": 100}),
}
"""Collections by path; ``{}`` stands for an id."""

_NOTHING_FOUND = {"object": "vector_store.search_results.page", "data": [], "has_more": False}

_REFERENCE = re.compile(rb'"((?:file-|asst_|thread_|vs_|cntr_|conv_|batch_)[A-Za-z0-9]{16,64})"')
_OF = {"file-": "files", "asst_": "assistants", "thread_": "threads", "vs_": "vector_stores"}
_OF |= {"cntr_": "containers", "conv_": "conversations", "batch_": "batches"}


class Things:
    """All of them at one resource.

    ``deployment`` finds one of its deployments by name; ``line`` answers a line of a batch.
    """

    def __init__(
        self,
        randomness: random.Random,
        deployment: Callable[[str], object],
        line: batches.AnswerLine,
    ) -> None:
        self._randomness = randomness
        self._deployment = deployment
        self._line = line
        self._things: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._contents: dict[str, bytes] = {}
        self._actions: Mapping[tuple[str, str], Callable[[str, Sent, int], Reply]] = {
            ("POST", "batches"): self._create_batch,
            ("POST", "batches/{}/cancel"): self._cancel,
            ("POST", "evals/{}/runs/{}/cancel"): self._cancel,
            ("POST", "fine_tuning/jobs/{}/cancel"): self._cancel,
            ("POST", "fine_tuning/jobs/{}/pause"): self._cancel,
            ("POST", "fine_tuning/jobs/{}/resume"): self._cancel,
            ("POST", "threads/{}/runs/{}/cancel"): self._cancel,
            ("POST", "uploads/{}/cancel"): self._cancel,
            ("POST", "vector_stores/{}/file_batches/{}/cancel"): self._cancel,
            ("POST", "threads/{}/runs/{}/submit_tool_outputs"): self._shown,
            ("POST", "uploads/{}/complete"): self._complete_upload,
            ("POST", "threads"): self._create_thread,
            ("POST", "threads/runs"): self._create_and_run,
            ("POST", "vector_stores/{}/search"): lambda *_: json_reply(_NOTHING_FOUND),
            ("POST", "videos/{}/remix"): self._remix,
            ("GET", "files/{}/content"): self._content,
            ("GET", "containers/{}/files/{}/content"): self._content,
            ("GET", "videos/{}/content"): self._content,
            ("GET", "vector_stores/{}/files/{}/content"): self._text,
            ("GET", "vector_stores/{}/file_batches/{}/files"): lambda *_: json_reply(_listed([])),
        }

    def clear(self) -> None:
        """Forget all of them."""
        self._things.clear()
        self._contents.clear()

    def knows(self, method: str, parts: tuple[str, ...]) -> bool:
        """Whether there is such an operation."""
        return any(True for _ in self._readings(method, parts))

    def missing(self, body: bytes) -> Whole | None:
        """AOAI's error for the first id in a JSON body that is not of this resource; None if all are."""
        for match in _REFERENCE.finditer(body):
            ident = match[1].decode()
            collection = next(of for prefix, of in _OF.items() if ident.startswith(prefix))
            if f"{collection}/{ident}" not in self._things:
                return _not_found(KINDS[collection], ident, 400 if collection == "files" else 404)
        return None

    def keep(self, collection: str, thing: dict[str, Any]) -> None:
        """Take in a thing that was made elsewhere."""
        self._things[f"{collection}/{thing['id']}"] = thing
        while len(self._things) > MAX_THINGS:
            path, _ = self._things.popitem(last=False)
            self._contents.pop(path, None)

    def remember(self, named: object, items: Iterable[Mapping[str, Any]], unix_time: int) -> None:
        """Add what was asked and answered to the conversation that a response names, if it names one."""
        ident = named.get("id") if isinstance(named, Mapping) else named
        if f"conversations/{ident}" not in self._things:
            return
        path = f"conversations/{ident}/items"
        for item in items:
            self._create(path, KINDS["conversations/{}/items"], Sent(item), unix_time)

    def answer(self, request: Request, parts: tuple[str, ...], unix_time: int) -> Reply:
        """Answer a request that `knows` knows."""
        method = request.method
        template, kind = next(self._readings(method, parts))
        missing = self._first_missing(template, parts) or self.missing(request.body)
        if missing is not None:
            return missing
        sent = read_sent(request)
        if isinstance(sent, Whole):
            return sent
        path = "/".join(parts)
        if kind is None:
            return self._actions[method, template](path, sent, unix_time)
        if template.endswith("{}"):
            return self._on_thing(method, path, sent)
        if method == "GET":
            return self._list(path, parse_qs(request.target.partition("?")[2]))
        items = sent.fields.get("items")
        if isinstance(items, list) and path.endswith("/items"):
            rows = [
                self._create(path, kind, Sent(item), unix_time) for item in items if isinstance(item, dict)
            ]
            return json_reply(_listed(rows))
        if template == "threads/{}/runs":
            return self._run(path, sent, unix_time)
        return json_reply(self._create(path, kind, sent, unix_time))

    # --- reading a path ---------------------------------------------------------------------------------

    def _readings(self, method: str, parts: tuple[str, ...]) -> Iterator[tuple[str, Kind | None]]:
        """Yield the templates that a path fits: actions (without a kind), then collections and things."""
        for of, template in self._actions:
            if of == method and _fits(template, parts):
                yield template, None
        for template, kind in KINDS.items():
            if method in ("GET", "POST") and _fits(template, parts):
                yield template, kind
            verbs = ("GET", "DELETE", "POST") if kind.updates else ("GET", "DELETE")
            if method in verbs and _fits(f"{template}/{{}}", parts):
                yield f"{template}/{{}}", kind

    def _first_missing(self, template: str, parts: tuple[str, ...]) -> Whole | None:
        for number, segment in enumerate(template.split("/")):
            if segment != "{}":
                continue
            path, of = "/".join(parts[: number + 1]), "/".join(template.split("/")[:number])
            if path not in self._things:
                return _not_found(KINDS[of], parts[number], 404)
        return None

    # --- the usual verbs --------------------------------------------------------------------------------

    def _create(self, path: str, kind: Kind, sent: Sent, unix_time: int) -> dict[str, Any]:
        ident = sent.fields.get("file_id") if path.endswith("/files") else None
        made = {
            "id": ident or f"{kind.prefix}{self._randomness.getrandbits(128):032x}",
            "object": kind.name,
            "created_at": unix_time,
            **kind.said,
            **{name: value for name, value in sent.fields.items() if name not in ("items", "stream")},
        }
        if path == "conversations":
            made.pop("items", None)
        if path == "evals":
            made["testing_criteria"] = evaluations.with_ids(made.get("testing_criteria"), self._randomness)
        if kind.name == "eval.run":
            made |= evaluations.of_run(self._things[path.removesuffix("/runs")])
        if sent.file is not None:
            made |= {"filename": sent.filename, "bytes": len(sent.file)}
        if path == "videos":
            self._contents[f"videos/{made['id']}"] = media.VIDEO
        self.keep(path, made)
        if sent.file is not None:
            self._contents[f"{path}/{made['id']}"] = sent.file
        return made

    def _run(self, path: str, sent: Sent, unix_time: int) -> Reply:
        thread = path.split("/")[1]
        fields = {**sent.fields, "thread_id": thread, "started_at": unix_time, "completed_at": unix_time}
        run = self._create(path, KINDS["threads/{}/runs"], Sent(fields), unix_time)
        messages, steps = f"threads/{thread}/messages", f"{path}/{run['id']}/steps"
        said = self._create(messages, KINDS["threads/{}/messages"], Sent(runs.message_of(run)), unix_time)
        made = Sent(runs.step_of(run, said))
        step = self._create(steps, KINDS["threads/{}/runs/{}/steps"], made, unix_time)
        return (
            runs.stream(run, said, step)
            if sent.fields.get("stream") is True
            else json_reply(runs.queued(run))
        )

    def _list(self, path: str, query: Mapping[str, list[str]]) -> Whole:
        after = query.get("after", [""])[0]
        if after and f"{path}/{after}" not in self._things:
            return error(404, "404", f"No such object: {after}")
        count = path.count("/") + 1
        rows = [t for p, t in self._things.items() if p.startswith(f"{path}/") and p.count("/") == count]
        newest_first = path.startswith(("threads/", "conversations/"))
        if query.get("order", ["desc" if newest_first else "asc"])[0] == "desc":
            rows.reverse()
        if after:
            rows = rows[[row["id"] for row in rows].index(after) + 1 :]
        return json_reply(_listed(rows))

    def _on_thing(self, method: str, path: str, sent: Sent) -> Whole:
        thing = self._things[path]
        if method == "DELETE":
            for each in [p for p in self._things if p == path or p.startswith(f"{path}/")]:
                del self._things[each]
                self._contents.pop(each, None)
            return json_reply({"id": thing["id"], "object": f"{thing['object']}.deleted", "deleted": True})
        if method == "POST":
            thing.update(sent.fields)
        answer = json_reply(thing)
        if path.startswith("batches/") and method == "GET":
            self._advance(thing)
        return answer

    def _advance(self, batch: dict[str, Any]) -> None:
        """Go on with a batch that was looked at."""
        status = batches.NEXT.get(batch["status"])
        file = f"files/{batch.get('input_file_id')}"
        if status is None or file not in self._things:
            return
        batch["status"] = status
        if status != "completed":
            return
        unix_time = batch["created_at"]
        made = batches.results_of(self._contents.get(file, b""), self._line)
        for name, content in (("output", made.output), ("error", made.errors)):
            if content:
                sent = Sent({"purpose": "batch_output"}, content, f"{name}.jsonl")
                batch[f"{name}_file_id"] = self._create("files", KINDS["files"], sent, unix_time)["id"]
        batch |= {"request_counts": made.counts, "completed_at": unix_time}

    # --- actions ----------------------------------------------------------------------------------------

    def _cancel(self, path: str, _sent: Sent, _unix_time: int) -> Whole:
        thing = self._things[path.rpartition("/")[0]]
        thing["status"] = "cancelled"
        return json_reply(thing)

    def _shown(self, path: str, _sent: Sent, _unix_time: int) -> Whole:
        return json_reply(self._things[path.rpartition("/")[0]])

    def _complete_upload(self, path: str, sent: Sent, unix_time: int) -> Whole:
        upload = path.removesuffix("/complete")
        parts = [f"{upload}/parts/{part}" for part in sent.fields.get("part_ids", [])]
        content = b"".join(self._contents.get(part, b"") for part in parts)
        fields = {name: self._things[upload].get(name) for name in ("filename", "purpose")}
        file = self._create(
            "files", KINDS["files"], Sent(fields, content, str(fields["filename"])), unix_time
        )
        self._things[upload] |= {"status": "completed", "file": file}
        return json_reply(self._things[upload])

    def _create_and_run(self, _path: str, sent: Sent, unix_time: int) -> Reply:
        thread = self._create("threads", KINDS["threads"], Sent({}), unix_time)
        given = sent.fields.get("thread")
        messages = given.get("messages") if isinstance(given, Mapping) else None
        self._add_messages(f"threads/{thread['id']}", messages, unix_time)
        fields = {name: value for name, value in sent.fields.items() if name != "thread"}
        return self._run(f"threads/{thread['id']}/runs", Sent(fields), unix_time)

    def _create_thread(self, path: str, sent: Sent, unix_time: int) -> Whole:
        fields = {name: value for name, value in sent.fields.items() if name != "messages"}
        thread = self._create(path, KINDS["threads"], Sent(fields), unix_time)
        self._add_messages(f"threads/{thread['id']}", sent.fields.get("messages"), unix_time)
        return json_reply(thread)

    def _add_messages(self, thread: str, messages: object, unix_time: int) -> None:
        for message in messages if isinstance(messages, list) else []:
            if isinstance(message, Mapping):
                self._create(f"{thread}/messages", KINDS["threads/{}/messages"], Sent(message), unix_time)

    def _create_batch(self, path: str, sent: Sent, unix_time: int) -> Whole:
        made = self._create(path, KINDS["batches"], sent, unix_time)
        answer = json_reply(made)
        file = f"files/{sent.fields.get('input_file_id')}"
        if file in self._things:
            # The answer was made before: the faults are shown when the batch is looked up.
            faults = batches.faults_of(self._contents.get(file, b""), self._deployment)
            if faults:
                made |= {"status": "failed", "errors": {"object": "list", "data": faults}}
        return answer

    def _remix(self, _path: str, sent: Sent, unix_time: int) -> Whole:
        return json_reply(self._create("videos", KINDS["videos"], sent, unix_time))

    def _content(self, path: str, _sent: Sent, _unix_time: int) -> Whole:
        content = self._contents.get(path.removesuffix("/content"), b"")
        return Whole(200, (("content-type", "application/octet-stream"),), content)

    def _text(self, path: str, _sent: Sent, _unix_time: int) -> Whole:
        content = self._contents.get(f"files/{path.split('/')[-2]}", b"").decode(errors="replace")
        return json_reply(_listed([{"type": "text", "text": content}]))


def _fits(template: str, parts: tuple[str, ...]) -> bool:
    wanted = template.split("/")
    return len(wanted) == len(parts) and all(
        each in ("{}", part) and (each != "{}" or "_" in part or "-" in part)
        for each, part in zip(wanted, parts, strict=True)
    )


def _not_found(kind: Kind, ident: str, status: int) -> Whole:
    return error(
        status,
        None,
        f"No such {kind.name.replace('.', ' ')} object: {ident}",
        more={"type": "invalid_request_error", "param": "id"},
    )


def _listed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ids = [row["id"] for row in rows if "id" in row]
    ends = {"first_id": ids[0], "last_id": ids[-1]} if ids else {"first_id": None, "last_id": None}
    return {"object": "list", "data": rows, **ends, "has_more": False}
