"""What lives at a simulated resource: made, found, listed and deleted there, and nowhere else."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator.batches import MOST_LINES, results_of
from aoai_simulator.replies import Frames, Whole
from aoai_simulator.requests import Request
from aoai_simulator.resource import Resource
from aoai_simulator.settings import Settings
from aoai_simulator.things import KINDS
from aoai_simulator.tokenizer import ByteTokenizer

UNIX_TIME = 1_700_000_000.0
FORM = "multipart/form-data; boundary=b"
GRADERS = [
    {"type": "string_check", "name": "Same text", "operation": "eq", "input": "a", "reference": "a"},
    {
        "type": "text_similarity",
        "name": "Like it",
        "evaluation_metric": "bleu",
        "input": "a",
        "reference": "b",
    },
]
UPLOAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n\x00\r\ntext\r\n--b--\r\n'
)


def resource(seed: int = 7) -> Resource:
    deployments = {
        "chat": {"model": "gpt-4o"},
        "ear": {"model": "whisper"},
        "new-ear": {"model": "gpt-4o-transcribe"},
        "brush": {"model": "gpt-image-1"},
    }
    spec = SimulatedEndpoint.model_validate({"deployments": deployments})
    return Resource(
        "here", spec, "key", settings=Settings(), randomness=random.Random(seed), tokenizer=ByteTokenizer()
    )


def ask(where: Resource, method: str, path: str, body: Any = b"", content_type: str = "") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"api-key": "key", "content-type": content_type or "application/json"}
    begun = where.begin(Request(method, f"/openai/v1/{path}", headers, data), UNIX_TIME)
    reply = begun if isinstance(begun, Whole) else where.reply(begun, 0.0, UNIX_TIME)
    if isinstance(reply, Frames):
        return 200, b"".join(reply.frames)
    is_json = dict(reply.headers).get("content-type") == "application/json"
    return reply.status, json.loads(reply.body) if is_json else reply.body


@pytest.mark.parametrize(
    "collection", [path for path in KINDS if "{}" not in path and path != "chat/completions"]
)
def test_a_thing_is_made_found_listed_and_gone(collection: str) -> None:
    here, elsewhere = resource(), resource(8)
    status, made = ask(here, "POST", collection, {})
    assert status == 200
    path = f"{collection}/{made['id']}"
    assert ask(here, "GET", path) == (200, made)
    assert [row["id"] for row in ask(here, "GET", collection)[1]["data"]] == [made["id"]]
    assert ask(elsewhere, "GET", path)[0] == 404
    assert ask(here, "DELETE", path)[1]["deleted"] is True
    assert ask(here, "GET", path)[0] == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("images/generations", {"model": "Brush", "prompt": "a boat"}),
        ("assistants", {"model": "Chat"}),
        ("chat/completions", {"model": "CHAT", "messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_the_case_of_a_deployments_name_does_not_count(path: str, body: dict[str, Any]) -> None:
    assert ask(resource(), "POST", path, body)[0] == 200
    assert ask(resource(), "POST", path, body | {"model": "none"})[0] == 404


def test_a_file_comes_back_as_it_was_sent() -> None:
    here = resource()
    _, file = ask(here, "POST", "files", UPLOAD, FORM)
    assert (file["filename"], file["bytes"], file["purpose"]) == ("a.txt", 7, "assistants")
    assert ask(here, "GET", f"files/{file['id']}/content") == (200, b"\x00\r\ntext")
    assert ask(resource(8), "POST", "batches", {"input_file_id": file["id"]})[0] == 400
    assert ask(here, "POST", "batches", {"input_file_id": file["id"]})[0] == 200


def test_an_upload_of_parts_becomes_a_file() -> None:
    here = resource()
    _, upload = ask(here, "POST", "uploads", {"filename": "b.txt", "purpose": "batch"})
    _, part = ask(here, "POST", f"uploads/{upload['id']}/parts", UPLOAD, FORM)
    _, done = ask(here, "POST", f"uploads/{upload['id']}/complete", {"part_ids": [part["id"]]})
    assert ask(here, "GET", f"files/{done['file']['id']}/content") == (200, b"\x00\r\ntext")


def test_a_run_answers_in_its_thread() -> None:
    here = resource()
    _, assistant = ask(here, "POST", "assistants", {"model": "chat"})
    _, thread = ask(here, "POST", "threads")
    ask(here, "POST", f"threads/{thread['id']}/messages", {"role": "user", "content": "Hi"})
    run = {"assistant_id": assistant["id"], "stream": True}
    assert b"thread.run.completed" in ask(here, "POST", f"threads/{thread['id']}/runs", run)[1]
    path = f"threads/{thread['id']}/messages"
    roles = [message["role"] for message in ask(here, "GET", path)[1]["data"]]
    assert roles == ["assistant", "user"], "the newest is the first"
    assert [row["role"] for row in ask(here, "GET", f"{path}?order=asc")[1]["data"]] == roles[::-1]
    assert ask(here, "POST", "assistants", {"model": "nowhere"})[0] == 404


def test_a_conversation_of_another_resource_is_not_found() -> None:
    _, conversation = ask(resource(8), "POST", "conversations")
    call = {"model": "chat", "input": "Hi", "conversation": conversation["id"]}
    assert ask(resource(), "POST", "responses", call)[0] == 404


def test_a_run_tells_which_message_it_made() -> None:
    here = resource()
    _, assistant = ask(here, "POST", "assistants", {"model": "chat"})
    _, thread = ask(here, "POST", "threads", {"messages": [{"role": "user", "content": "Hi"}]})
    runs = f"threads/{thread['id']}/runs"
    _, queued = ask(here, "POST", runs, {"assistant_id": assistant["id"]})
    assert (queued["status"], queued["completed_at"]) == ("queued", None)
    _, run = ask(here, "GET", f"{runs}/{queued['id']}")
    assert run["status"] == "completed"
    (step,) = ask(here, "GET", f"{runs}/{run['id']}/steps")[1]["data"]
    assert step["completed_at"] == run["completed_at"] == run["created_at"]
    made = step["step_details"]["message_creation"]["message_id"]
    _, said = ask(here, "GET", f"threads/{thread['id']}/messages/{made}")
    assert (said["role"], said["run_id"], said["thread_id"]) == ("assistant", run["id"], thread["id"])


def test_the_events_of_a_run_make_up_its_message() -> None:
    here = resource()
    _, assistant = ask(here, "POST", "assistants", {"model": "chat"})
    asked = {"assistant_id": assistant["id"], "thread": {"messages": []}, "stream": True}
    _, stream = ask(here, "POST", "threads/runs", asked)
    frames = [frame.split(b"\ndata: ") for frame in stream.split(b"\n\n")[:-2]]
    names = [name.removeprefix(b"event: ").decode() for name, _ in frames]
    assert names[:7] == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
    ]
    assert names[-3:] == ["thread.message.completed", "thread.run.step.completed", "thread.run.completed"]
    events = [json.loads(data) for _, data in frames]
    pieces = [event["delta"]["content"][0]["text"]["value"] for event in events if "delta" in event]
    assert len(pieces) > 1
    assert "".join(pieces) == events[-3]["content"][0]["text"]["value"]
    assert {event["id"] for event in events if "delta" in event} == {events[-3]["id"]}


def upload(content: bytes) -> bytes:
    return UPLOAD.replace(b"\x00\r\ntext", content).replace(b"assistants", b"batch")


def test_a_batch_ends_with_an_answer_for_each_line() -> None:
    here = resource()
    messages = [{"role": "user", "content": "Hi"}]
    bodies = [{"model": "chat", "messages": messages, "stream": True}, {"model": "chat", "messages": []}]
    lines = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n, body in enumerate(bodies)
    ]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    _, file = ask(here, "POST", "files", upload(content), FORM)
    _, batch = ask(here, "POST", "batches", {"input_file_id": file["id"]})
    seen = [ask(here, "GET", f"batches/{batch['id']}")[1] for _ in range(4)]
    assert [each["status"] for each in seen] == ["validating", "in_progress", "completed", "completed"]
    assert seen[-1]["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (done,), (failed,) = (
        [json.loads(row) for row in ask(here, "GET", f"files/{seen[-1][name]}/content")[1].splitlines()]
        for name in ("output_file_id", "error_file_id")
    )
    assert (done["custom_id"], done["response"]["status_code"]) == ("line-0", 200)
    assert done["response"]["body"]["choices"][0]["message"]["content"]
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("line-1", 400)


def test_a_batch_answers_a_bounded_number_of_lines() -> None:
    line = {"url": "/v1/embeddings", "body": {"model": "chat", "input": "x"}}
    found = results_of(json.dumps(line).encode() + b"\n", lambda url, body: (200, [url, body]))
    assert json.loads(found.output)["response"]["body"] == ["/v1/embeddings", line["body"]]
    many = (json.dumps(line).encode() + b"\n") * (MOST_LINES + 3)
    counts = results_of(many, lambda url, body: (200, {})).counts
    assert counts == {"total": MOST_LINES + 3, "completed": MOST_LINES, "failed": 3}


def test_a_conversation_holds_what_was_asked_and_answered() -> None:
    here = resource()
    _, conversation = ask(here, "POST", "conversations")
    call = {"model": "chat", "input": "Hi", "conversation": {"id": conversation["id"]}}
    _, answer = ask(here, "POST", "responses", call)
    _, items = ask(here, "GET", f"conversations/{conversation['id']}/items?order=asc")
    assert [item["role"] for item in items["data"]] == ["user", "assistant"]
    assert items["data"][0]["content"] == [{"type": "input_text", "text": "Hi"}]
    assert items["data"][1]["content"] == answer["output"][0]["content"]


def test_the_messages_of_a_stored_chat_completion() -> None:
    here = resource()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    _, made = ask(here, "POST", "chat/completions", {"model": "chat", "messages": messages, "store": True})
    _, kept = ask(here, "GET", f"chat/completions/{made['id']}/messages")
    assert [{"role": row["role"], "content": row["content"]} for row in kept["data"]] == messages
    assert [row["id"] for row in ask(here, "GET", "chat/completions")[1]["data"]] == [made["id"]]


def test_a_stored_chat_completion() -> None:
    here = resource()
    call = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "store": True}
    _, made = ask(here, "POST", "chat/completions", call)
    assert ask(here, "GET", f"chat/completions/{made['id']}") == (200, made)
    assert ask(here, "POST", f"chat/completions/{made['id']}", {"metadata": {"a": "b"}})[1]["metadata"]


def test_audio_and_images() -> None:
    here = resource()
    heard = UPLOAD.replace(b"purpose", b"model").replace(b"assistants", b"ear")
    assert ask(here, "POST", "audio/transcriptions", heard, FORM)[1].keys() == {"text"}
    usage = ask(here, "POST", "audio/transcriptions", heard.replace(b"ear", b"new-ear"), FORM)[1]["usage"]
    assert usage["input_token_details"]["audio_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    assert ask(here, "POST", "audio/speech", {"model": "ear", "input": "x"})[0] == 400
    drawn = {"model": "brush", "prompt": "x"}
    assert ask(here, "POST", "images/generations", drawn)[1]["data"][0]["b64_json"]
    assert (
        b"image_generation.completed" in ask(here, "POST", "images/generations", {**drawn, "stream": True})[1]
    )


def field(name: str, value: str) -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def test_transcripts_with_times() -> None:
    here = resource()

    def heard(*fields: bytes, of: str = "audio/transcriptions") -> Any:
        return ask(here, "POST", of, b"".join((field("model", "ear"), *fields, UPLOAD)), FORM)[1]

    verbose = field("response_format", "verbose_json")
    found = heard(verbose)
    assert (found["task"], found["segments"][0]["text"], "words" in found) == (
        "transcribe",
        found["text"],
        False,
    )
    assert found["segments"][0]["end"] == found["duration"] > 0
    timed = heard(verbose, field("timestamp_granularities[]", "word"))["words"]
    assert " ".join(word["word"] for word in timed) + "." == found["text"]
    assert heard(verbose, of="audio/translations")["task"] == "translate"
    assert heard(field("response_format", "srt")).startswith(b"1\n00:00:00,000 --> 00:00:00,100\n")
    assert heard(field("response_format", "vtt")).startswith(b"WEBVTT\n\n00:00:00.000 --> ")


def test_what_there_is_not() -> None:
    for method, path in (
        ("GET", "newfangled"),
        ("PUT", "files"),
        ("POST", "files/x/content"),
    ):
        assert ask(resource(), method, path)[0] == 404


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([b'{"body": {"model": "chat"}}', b'{"body": {"model": "CHAT"}}'], None),
        ([b'{"body": {"model": "virtual"}}'], ("model_not_found", 1)),
        ([b'{"body": {"model": "chat"}}', b'{"body": {"model": "ear"}}'], ("model_mismatch", 2)),
        ([b'{"body": {}}'], ("invalid_json_line", 1)),
        ([b""], ("empty_file", None)),
    ],
)
def test_a_batch_fails_whose_lines_name_no_deployment_of_the_resource(
    lines: list[bytes], fault: tuple[str, int | None] | None
) -> None:
    here = resource()
    data = UPLOAD.replace(b"assistants", b"batch").replace(b"\x00\r\ntext", b"\n".join(lines))
    _, file = ask(here, "POST", "files", data, FORM)
    _, batch = ask(here, "POST", "batches", {"input_file_id": file["id"]})
    assert batch["status"] == "validating"
    _, batch = ask(here, "GET", f"batches/{batch['id']}")
    found = [(each["code"], each["line"]) for each in batch.get("errors", {"data": []})["data"]]
    assert found == ([] if fault is None else [fault])
    assert batch["status"] == ("validating" if fault is None else "failed")


def test_the_graders_of_an_evaluation_have_ids_by_which_its_runs_name_them() -> None:
    where = resource()
    sent = {"data_source_config": {"type": "logs"}, "testing_criteria": GRADERS}
    _, made = ask(where, "POST", "evals", sent)
    graders = made["testing_criteria"]
    assert [{k: v for k, v in each.items() if k != "id"} for each in graders] == GRADERS
    idents = [each["id"] for each in graders]
    assert [ident.rpartition("-")[0] for ident in idents] == ["Same text", "Like it"]
    assert ask(where, "GET", f"evals/{made['id']}")[1]["testing_criteria"] == graders
    _, run = ask(where, "POST", f"evals/{made['id']}/runs", {"data_source": {"type": "jsonl"}})
    assert run["eval_id"] == made["id"]
    assert [each["testing_criteria"] for each in run["per_testing_criteria_results"]] == idents
    assert run["result_counts"] == {"total": 0, "errored": 0, "failed": 0, "passed": 0}


@pytest.mark.parametrize("criteria", [[], None, "x", [1], [{}], [{"id": "mine", "name": "a"}]])
def test_graders_that_are_none_stay_as_they_are(criteria: object) -> None:
    where = resource()
    status, made = ask(where, "POST", "evals", {"testing_criteria": criteria})
    assert status == 200
    status, run = ask(where, "POST", f"evals/{made['id']}/runs", {})
    assert status == 200
    assert isinstance(run["per_testing_criteria_results"], list)
