"""Each family of operations with the real SDK through a real gateway, before two resources with own state."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]  # it has no stubs
import openai
import pytest
from backports import zstd

from tests.e2e.conftest import Kind, Sdk, node_folder
from tests.e2e.processes import Host, request
from tests.e2e.settings import CLIENT_KEY, POOLS, SPEC
from tests.e2e.shared import Pair, running
from tests.programs import require

INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
MEDIA = {"whisper": "whisper", "voice": "gpt-4o-mini-tts", "brush": "gpt-image-1", "film": "sora-2"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLASSIC_VERSION = "2025-04-01-preview"


@pytest.fixture(scope="module")
def pair(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    models = {f"{name}-real": {"model": model, **INSTANT} for name, model in MEDIA.items()}
    spec = {name: {**each, "deployments": {**each["deployments"], **models}} for name, each in SPEC.items()}
    pools = {
        name: {**pool, **{virtual: [f"{virtual}-real"] for virtual in MEDIA}} for name, pool in POOLS.items()
    }
    with running(
        host,
        tmp_path_factory.mktemp(f"surface-{host}"),
        home,
        spec=spec,
        pools=pools,
        breaks={"default_seconds": 0.05, "floor_seconds": 0.05, "ceiling_seconds": 0.05},
    ) as made:
        yield made


@pytest.fixture(params=["v1", "azure"])
def client(request: pytest.FixtureRequest, pair: Pair, sdk: Sdk) -> openai.OpenAI:
    kind: Kind = request.param
    pair.simulator.clear_faults()
    if kind == "v1":
        return sdk(pair.gateway, "v1")
    return sdk(pair.gateway, "azure", api_version=CLASSIC_VERSION)


def batch_lines(model: str, count: int = 3) -> bytes:
    """A batch's input file, with white space and escapes of its own."""
    line = '{{ "custom_id":"{}","method":"POST", "url":"/v1/chat/completions","body":{{"messages":['
    line += '{{"role":"user","content":"gpt-4o \\u00e9 é"}}],  "model" : "{}"}}}}'
    return "".join(line.format(number, model) + "\r\n" for number in range(count)).encode()


def test_a_large_batch_file_goes_where_its_deployment_is(client: openai.OpenAI, pair: Pair) -> None:
    # Both standins at the first endpoint refuse it; the second endpoint has another one.
    pair.simulator.fault("429", retry_after_seconds=0.05, endpoint="sweden", times=2)
    file = client.files.create(file=("b.jsonl", batch_lines("gpt-4o", 20_000)), purpose="batch")
    assert client.files.content(file.id).read() == batch_lines("gpt-4o-france", 20_000)
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert client.batches.retrieve(batch.id).status == "validating"


def test_a_batch_files_faults_are_named(client: openai.OpenAI) -> None:
    two = batch_lines("gpt-4o") + batch_lines("gpt-4o-mini")
    with pytest.raises(openai.BadRequestError, match=r"Line 4 .* another deployment than line 1") as caught:
        client.files.create(file=("b.jsonl", two), purpose="batch")
    assert caught.value.code == "model_mismatch"
    with pytest.raises(openai.NotFoundError, match=r"Line 1 of the batch's input file: .*'nonsense'"):
        client.files.create(file=("b.jsonl", batch_lines("nonsense")), purpose="batch")


def test_files_uploads_batches(client: openai.OpenAI) -> None:
    content = b'{"custom_id": "1"}\n\x00\xff'
    other = client.files.create(file=("b.jsonl", content), purpose="fine-tune")
    assert client.files.content(other.id).read() == content
    file = client.files.create(file=("b.jsonl", batch_lines("gpt-4o")), purpose="batch")
    assert client.files.retrieve(file.id).id == file.id
    assert client.files.content(file.id).read() == batch_lines("gpt-4o-ptu")
    assert file.id in [each.id for each in client.files.list()]
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    found = client.batches.retrieve(batch.id)
    assert (found.id, found.status) == (batch.id, "validating")
    assert client.batches.cancel(batch.id).status == "cancelled"
    assert client.batches.list().data[0].object == "batch"
    upload = client.uploads.create(bytes=3, filename="u.txt", mime_type="text/plain", purpose="assistants")
    part = client.uploads.parts.create(upload.id, data=io.BytesIO(b"abc"))
    done = client.uploads.complete(upload.id, part_ids=[part.id])
    assert done.file is not None
    assert client.files.content(done.file.id).read() == b"abc"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="No such file object"):
        client.files.retrieve(file.id)


def test_vector_stores_and_containers(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.txt", b"text"), purpose="assistants")
    store = client.vector_stores.create(name="store", file_ids=[file.id])
    client.vector_stores.files.create(store.id, file_id=file.id)
    assert [each.id for each in client.vector_stores.files.list(store.id)] == [file.id]
    assert list(client.vector_stores.search(store.id, query="text")) == []
    assert client.vector_stores.update(store.id, name="other").name == "other"
    batch = client.vector_stores.file_batches.create(store.id, file_ids=[file.id])
    assert client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id).id == batch.id
    assert client.vector_stores.delete(store.id).deleted
    container = client.containers.create(name="box")
    held = client.containers.files.create(container.id, file=("c.txt", b"held"))
    assert client.containers.files.content.retrieve(held.id, container_id=container.id).read() == b"held"
    client.containers.delete(container.id)


def test_assistants_threads_runs(client: openai.OpenAI) -> None:
    beta = client.beta
    assistant = beta.assistants.create(model="gpt-4o", name="helper")
    thread = beta.threads.create()
    beta.threads.messages.create(thread.id, role="user", content="Hi")
    run = beta.threads.runs.create(thread.id, assistant_id=assistant.id)
    assert beta.threads.runs.retrieve(run.id, thread_id=thread.id).status == "completed"
    assert [each.role for each in beta.threads.messages.list(thread.id)] == ["assistant", "user"]
    (step,) = beta.threads.runs.steps.list(run.id, thread_id=thread.id)
    assert step.type == "message_creation"
    with beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        # The SDK puts the message together, and refuses events that come out of order.
        assert "".join(stream.text_deltas) == "This is a simulated answer."
    events = list(beta.threads.runs.create(thread.id, assistant_id=assistant.id, stream=True))
    assert events[-1].event == "thread.run.completed"
    ran = beta.threads.create_and_run_poll(assistant_id=assistant.id, model="gpt-4o")
    assert ran.status == "completed"
    assert beta.threads.delete(thread.id).deleted
    assert beta.assistants.delete(assistant.id).deleted


def test_responses_and_conversations(client: openai.OpenAI) -> None:
    first = client.responses.create(model="gpt-4o", input="Hello")
    second = client.responses.create(model="gpt-4o", input="Again", previous_response_id=first.id)
    assert client.responses.retrieve(second.id).id == second.id
    assert client.responses.input_items.list(first.id).data
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    conversation = client.conversations.create(metadata={"a": "b"})
    assert client.responses.create(model="gpt-4o", input="Hi", conversation=conversation.id).output_text
    items: Any = [{"type": "message", "role": "user", "content": "x"}]
    client.conversations.items.create(conversation.id, items=items)
    kept = client.conversations.items.list(conversation.id).data
    assert [getattr(item, "role", None) for item in kept] == ["user", "assistant", "user"]
    client.conversations.delete(conversation.id)
    if not isinstance(client, openai.AzureOpenAI):
        assert client.responses.input_tokens.count(model="gpt-4o", input="Hello").input_tokens > 0
        assert client.responses.compact(model="gpt-4o", input="Hello").output


def test_stored_chat_completions(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], store=True
    )
    assert client.chat.completions.retrieve(made.id).id == made.id
    assert [each.content for each in client.chat.completions.messages.list(made.id)] == ["Hi"]
    assert client.chat.completions.update(made.id, metadata={"a": "b"}).id == made.id
    assert made.id in [each.id for each in client.chat.completions.list()]
    assert client.chat.completions.delete(made.id).deleted


def test_audio(client: openai.OpenAI) -> None:
    sound = client.audio.speech.create(model="voice", input="Hello", voice="alloy").read()
    assert sound.startswith(b"RIFF")
    heard = client.audio.transcriptions.create(model="whisper", file=("a.wav", sound))
    assert "simulated" in heard.text
    assert "simulated" in client.audio.translations.create(model="whisper", file=("a.wav", sound)).text
    plain = client.audio.transcriptions.create(model="whisper", file=("a.wav", sound), response_format="text")
    assert "simulated" in plain
    events = client.audio.transcriptions.create(model="whisper", file=("a.wav", sound), stream=True)
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]


def test_images(client: openai.OpenAI) -> None:
    drawn = client.images.generate(model="brush", prompt="a dot")
    assert drawn.data is not None
    assert drawn.data[0].b64_json
    edited = client.images.edit(model="brush", image=("i.png", b"\x89PNG"), prompt="a dot")
    assert edited.data
    events = list(client.images.generate(model="brush", prompt="a dot", stream=True))
    assert events[-1].type == "image_generation.completed"


def test_videos_fine_tuning_evals(client: openai.OpenAI) -> None:
    video = client.videos.create(model="film", prompt="a dot moves")  # type: ignore[arg-type]
    assert client.videos.retrieve(video.id).status == "completed"
    assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
    client.videos.delete(video.id)
    file = client.files.create(file=("t.jsonl", b"{}"), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.list_events(job.id).data == []
    kind: Any = {"type": "logs"}
    made = client.evals.create(data_source_config=kind, testing_criteria=[])
    run = client.evals.runs.create(made.id, data_source=kind)
    assert client.evals.runs.retrieve(run.id, eval_id=made.id).id == run.id
    client.evals.delete(made.id)


# --- affinity --------------------------------------------------------------------------------------------


def test_an_agent_of_fifty_turns_is_never_lost(pair: Pair, sdk: Sdk) -> None:
    """With stored responses, encrypted reasoning, threads and conversations, and throttles at random."""
    client = sdk(pair.gateway, "v1").with_options(max_retries=8)
    draw = random.Random(12)
    assistant = thread = conversation = None
    previous: str | None = None
    history: list[Any] = []
    for turn in range(50):
        if draw.random() < 0.3:
            pair.simulator.fault("429", retry_after_seconds=0.05, endpoint=draw.choice(["sweden", "france"]))
        answer = client.responses.create(
            model="gpt-4o",
            input=[{"role": "user", "content": f"turn {turn}"}],
            previous_response_id=previous,
        )
        previous = answer.id
        asked: Any = [*history, {"role": "user", "content": "think"}]
        thought = client.responses.create(
            model="gpt-4o", input=asked, store=False, include=["reasoning.encrypted_content"]
        )
        history = [item.model_dump(exclude_none=True) for item in thought.output][-4:]
        conversation = conversation or client.conversations.create()
        client.responses.create(model="gpt-4o", input="x", conversation=conversation.id)
        assistant = assistant or client.beta.assistants.create(model="gpt-4o")
        thread = thread or client.beta.threads.create()
        client.beta.threads.messages.create(thread.id, role="user", content="x")
        client.beta.threads.runs.create(thread.id, assistant_id=assistant.id)
    pair.simulator.clear_faults()


def test_ids_of_the_other_resource(pair: Pair, sdk: Sdk) -> None:
    client = sdk(pair.gateway, "v1")
    there = {"x-gateway-endpoint": "france"}
    file = client.files.create(file=("a.txt", b"x"), purpose="assistants", extra_headers=there)
    answer = client.files.with_raw_response.content(file.id)
    assert answer.headers["x-gateway-backend"] == "france"
    listed = client.files.with_raw_response.list(extra_headers=there)
    assert file.id in listed.text
    with pytest.raises(openai.PermissionDeniedError):
        client.files.list(extra_headers={"x-gateway-endpoint": "nowhere"})


# --- bad input -------------------------------------------------------------------------------------------

FORM = {"content-type": "multipart/form-data; boundary=b"}
MODEL = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "says"),
    [
        ("PUT", "files", {}, b"", 405, "Use GET, POST"),
        ("POST", "files/file-1", {}, b"", 405, "Use DELETE, GET"),
        ("POST", "audio/transcriptions", {}, b"{", 400, "takes a form"),
        ("POST", "audio/transcriptions", FORM, MODEL, 400, "ends before its last boundary"),
        ("POST", "audio/transcriptions", FORM, MODEL + MODEL + b"--b--\r\n", 400, "more than once"),
        ("POST", "audio/transcriptions", {"content-type": "multipart/form-data"}, MODEL, 400, "no boundary"),
        ("POST", "audio/transcriptions", FORM, b"--b--\r\n", 400, "names no deployment"),
        ("POST", "vector_stores", {"content-type": "application/json"}, b"{", 400, "not a JSON object"),
        ("POST", "threads", FORM, MODEL + b"--b--\r\n", 400, "takes JSON, not a form"),
        ("GET", "files/a%2Fb", {}, b"", 404, "Resource not found"),
        ("GET", "threads/..%2Ffiles", {}, b"", 404, "Resource not found"),
        ("POST", "assistants", {"content-type": "application/json"}, b'{"model":"x"}', 404, "does not exist"),
    ],
)
def test_bad_input(
    pair: Pair, method: str, path: str, headers: dict[str, str], body: bytes, status: int, says: str
) -> None:
    url = f"{pair.gateway.url}/openai/v1/{path}"
    answer = request(url, method, headers={"api-key": CLIENT_KEY, **headers}, body=body)
    assert answer.status == status
    assert says in json.loads(answer.body)["error"]["message"]


# --- coded requests --------------------------------------------------------------------------------------


def coded(coding: str, body: bytes) -> bytes:
    if coding == "br":
        return bytes(brotli.compress(body))
    if coding == "zstd":
        return bytes(zstd.compress(body))
    return gzip.compress(body) if coding == "gzip" else zlib.compress(body)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_coded_request_is_read(pair: Pair, coding: str) -> None:
    chat = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi " * 60_000}], "max_tokens": 5}
    for document, status in ((chat, 200), ({**chat, "model": "other"}, 404)):
        answer = request(
            f"{pair.gateway.url}/openai/v1/chat/completions",
            "POST",
            headers={"api-key": CLIENT_KEY, "content-encoding": coding, "content-type": "application/json"},
            body=coded(coding, json.dumps(document).encode()),
        )
        assert answer.status == status, answer.body


def test_a_coded_request_that_cannot_be_read(pair: Pair) -> None:
    bomb = gzip.compress(b" " * 101 * 1024 * 1024, 9)
    rows = (("gzip", bomb, 413), ("gzip", b"{}", 400), ("compress", b"{}", 400), ("gzip, br", b"{}", 400))
    for coding, body, status in rows:
        answer = request(
            f"{pair.gateway.url}/openai/v1/chat/completions",
            "POST",
            headers={"api-key": CLIENT_KEY, "content-encoding": coding},
            body=body,
        )
        assert answer.status == status, (coding, answer.body)


@pytest.mark.node
@pytest.mark.parametrize("kind", ["openai", "azure"])
@pytest.mark.parametrize(
    ("family", "outcome"),
    [
        (
            "audio",
            {
                "sound": "RIFF",
                "heard": "This is a simulated transcript.",
                "translated": "This is a simulated transcript.",
                "events": ["transcript.text.delta", "transcript.text.done"],
            },
        ),
        ("images", {"made": 1, "edited": 1}),
        ("files", {"content": "abc", "listed": True, "uploaded": "xyz", "deleted": True}),
        ("batches", {"status": "validating", "listed": True, "cancelled": "cancelled"}),
        ("stores", {"held": True, "read": "in", "deleted": True}),
        ("assistants", {"status": "completed", "last": "thread.run.completed", "deleted": True}),
        ("responses", {"retrieved": True, "said": True, "items": 1}),
        ("stored", {"found": True, "listed": True, "deleted": True}),
    ],
)
def test_javascript(pair: Pair, kind: str, family: str, outcome: dict[str, object]) -> None:
    pair.simulator.clear_faults()
    ask = {
        "kind": kind,
        "baseURL": pair.gateway.url if kind == "azure" else f"{pair.gateway.url}/openai/v1",
        "apiKey": CLIENT_KEY,
        "apiVersion": CLASSIC_VERSION,
        "family": family,
    }
    done = subprocess.run(
        [require("node"), str(node_folder() / "families.mjs"), json.dumps(ask)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == outcome
