"""Request targets: what is understood, what is refused, and that nothing in between gets through."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import Target, knows_stream_options, parse_target

CHAT = "/openai/deployments/gpt-4o/chat/completions"


def refusal(method: str, path: str) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse_target(method, path)
    return caught.value


def attempt(method: str, path: str) -> Target | GatewayError:
    try:
        return parse_target(method, path)
    except GatewayError as error:
        return error


@pytest.mark.parametrize(
    ("method", "path", "operation", "api", "deployment", "version"),
    [
        ("POST", CHAT + "?api-version=2024-10-21", "chat.completions", "classic", "gpt-4o", "2024-10-21"),
        ("POST", "/openai/deployments/a.b_c-1/completions", "completions", "classic", "a.b_c-1", None),
        ("POST", "/openai/deployments/ada/embeddings?x=1&api-version=v", "embeddings", "classic", "ada", "v"),
        ("POST", "/openai/responses?api-version=preview", "responses", "classic", None, "preview"),
        ("GET", "/openai/models?api-version=2024-10-21", "models", "classic", None, "2024-10-21"),
        ("POST", "/openai/v1/chat/completions", "chat.completions", "v1", None, None),
        ("POST", "/openai/v1/completions", "completions", "v1", None, None),
        ("POST", "/openai/v1/embeddings", "embeddings", "v1", None, None),
        ("POST", "/openai/v1/responses?api-version=preview", "responses", "v1", None, "preview"),
        ("GET", "/openai/v1/models", "models", "v1", None, None),
    ],
)
def test_known_targets(
    method: str, path: str, operation: str, api: str, deployment: str | None, version: str | None
) -> None:
    target = parse_target(method, path)
    assert (target.operation.name, target.api) == (operation, api)
    assert (target.deployment, target.api_version) == (deployment, version)
    assert target.with_prefix("") == path


def test_a_model_by_its_id() -> None:
    for form in ("/openai/models/gpt-4o", "/openai/v1/models/gpt%2D4o"):
        target = parse_target("GET", form)
        assert (target.operation.family, target.ids) == ("models", ("gpt-4o",))


def test_the_deployment_is_decoded_once() -> None:
    assert parse_target("POST", CHAT.replace("-", "%2D")).deployment == "gpt-4o"
    assert refusal("POST", CHAT.replace("-", "%252D")).code == "DeploymentNotFound"


def test_another_deployment_leaves_the_rest_as_it_is() -> None:
    target = parse_target(
        "POST", "/openai/deployments/gpt%2D4o/chat/completions?api-version=%32024&x=gpt%2D4o&&"
    )
    assert (
        target.with_deployment("real/dep ü")
        == "/openai/deployments/real%2Fdep%20%C3%BC/chat/completions?api-version=%32024&x=gpt%2D4o&&"
    )
    assert target.api_version == "2024"


def test_without_a_deployment_in_the_path_none_is_put_there() -> None:
    assert parse_target("POST", "/openai/v1/responses?a=b").with_deployment("x") == "/openai/v1/responses?a=b"


def test_a_path_prefix_goes_before() -> None:
    target = parse_target("POST", CHAT)
    assert target.with_prefix("/apim/aoai/") == "/apim/aoai" + CHAT
    assert target.with_prefix("/apim", "d") == "/apim/openai/deployments/d/chat/completions"


def test_the_query_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(parse_target("POST", CHAT + "?api-key=hunter2"))


@pytest.mark.parametrize(
    ("method", "path", "operation", "ids"),
    [
        ("GET", "/openai/v1/responses/resp_1", "responses.retrieve", ("resp_1",)),
        ("DELETE", "/openai/responses/resp_1?api-version=preview", "responses.delete", ("resp_1",)),
        ("GET", "/openai/v1/files/file%2D1/content", "files.content", ("file-1",)),
        ("POST", "/openai/threads/thread_1/runs/run_2/cancel", "threads.runs.cancel", ("thread_1", "run_2")),
        ("POST", "/openai/threads/runs", "threads.create_and_run", ()),
        ("GET", "/openai/v1/chat/completions", "chat.completions.list", ()),
        ("GET", "/openai/v1/chat/completions/chatcmpl-1", "chat.completions.retrieve", ("chatcmpl-1",)),
        ("POST", "/openai/v1/responses/compact", "responses.compact", ()),
        ("POST", "/openai/deployments/whisper/audio/transcriptions", "audio.transcriptions", ()),
        ("POST", "/openai/v1/images/edits", "images.edits", ()),
        ("POST", "/openai/v1/video/generations/jobs", "video.generations.jobs.create", ()),
    ],
)
def test_operations_on_what_lives_at_a_resource(
    method: str, path: str, operation: str, ids: tuple[str, ...]
) -> None:
    target = parse_target(method, path)
    assert (target.operation.name, target.ids) == (operation, ids)
    assert target.with_prefix("/apim") == "/apim" + path


@pytest.mark.parametrize(
    "ident", ["..", "%2e%2e", "a%2Fb", "a%5Cb", "a;b", "a%20b", "a%00", "%ff", "a" * 2_049, "%252e"]
)
def test_what_cannot_be_an_id_is_not_found(ident: str) -> None:
    for path in (f"/openai/v1/files/{ident}", f"/openai/v1/newfangled/{ident}"):
        assert refusal("GET", path).status == 404


@pytest.mark.parametrize("path", ["responses", "newfangled"])
def test_an_id_may_be_long(path: str) -> None:
    """LiteLLM, where it is the backend, writes its own route into the ids of responses, encrypted."""
    ident = "resp_" + "aZ-_9" * 100 + "="
    target = parse_target("GET", f"/openai/v1/{path}/{ident}")
    assert target.references == (ident,)


FILE = "file-0123456789abcdef"


def test_ids_in_the_query_are_references_too() -> None:
    target = parse_target("GET", f"/openai/v1/vector_stores/vs_1/files?after={FILE}&order=asc")
    assert target.references == ("vs_1", FILE)


def test_a_query_can_ask_for_a_stream() -> None:
    assert parse_target("GET", "/openai/v1/responses/resp_1?stream=true&starting_after=4").stream
    assert not parse_target("GET", "/openai/v1/responses/resp_1").stream
    assert not parse_target("GET", "/openai/v1/files?stream=true").stream


@pytest.mark.parametrize("operation", ["responses"])
def test_a_deployment_in_the_path_of_an_operation_that_azure_has_elsewhere(operation: str) -> None:
    target = parse_target("POST", f"/openai/deployments/gpt%2D4o/{operation}?api-version=preview")
    assert (target.operation.name, target.deployment) == (operation, "gpt-4o")
    assert target.deployment_in_body
    assert target.with_prefix("/apim", "real") == f"/apim/openai/{operation}?api-version=preview"


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/openai/deployments/x/extensions/chat/completions", "extensions"),
        ("/openai/deployments", "deployments"),
        ("/openai/deployments/gpt-4o", "deployments"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_families_that_are_not_served_are_named(method: str, path: str, family: str) -> None:
    error = refusal(method, path)
    assert (error.status, error.code) == (501, "not_built")
    assert family in error.message


@pytest.mark.parametrize("path", ["/openai/v1/responses", "/openai/v1/realtime?model=x", "/openai/v1/live"])
def test_a_session_is_asked_for_by_an_upgrade(path: str) -> None:
    assert refusal("GET", path).code == "upgrade_required"
    assert parse_target("GET", path, websocket=True).operation.websocket
    with pytest.raises(GatewayError) as refused:
        parse_target("GET", "/openai/v1/files", websocket=True)
    assert refused.value.code == "invalid_target"


def test_the_deployment_in_a_query() -> None:
    for path in ("/openai/v1/realtime?a=b&model=gpt", "/openai/realtime?a=b&deployment=gpt"):
        target = parse_target("GET", path, websocket=True)
        assert target.deployment == "gpt"
        assert target.with_prefix("/x", "real/1") == "/x" + path.replace("gpt", "real%2F1")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path", ["newfangled", "newfangled/thing_1/parts", "responses/resp_1/newly", "a.b/c"]
)
def test_what_v1_has_beyond_the_table_is_unknown(method: str, path: str) -> None:
    target = parse_target(method, f"/openai/v1/{path}?x=1")
    assert (target.operation.name, target.operation.method) == ("unknown", method)
    assert target.with_prefix("") == f"/openai/v1/{path}?x=1"


def test_ids_in_an_unknown_path_are_references() -> None:
    assert parse_target("GET", f"/openai/v1/newfangled/{FILE}/parts").references == (FILE,)
    assert parse_target("GET", "/openai/v1/file_search/options").references == ()


@pytest.mark.parametrize(
    "path", ["embedings", "response", "Responses", "vectorstores/x", "chat/completion", "image/generations"]
)
def test_a_slip_is_no_unknown_operation(path: str) -> None:
    error = refusal("POST", f"/openai/v1/{path}")
    assert error.status == 404
    assert "Below /openai/v1/ there" in error.message or "The path is" in error.message


@pytest.mark.parametrize("path", ["newfangled", "deployments/gpt-4o/newfangled"])
def test_the_classic_form_has_nothing_beyond_the_table(path: str) -> None:
    assert refusal("GET", f"/openai/{path}").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/openai",
        "/openai/",
        "/openai/v1",
        "/openai/v1/",
        "/openai/v2/chat/completions",
        "/openai/v1/chat",
        "/openai/v1/chat/completions/",
        "/openai/v1/chat//completions",
        "//openai/v1/chat/completions",
        "//evil.example/openai/v1/chat/completions",
        "/openai/v1/./chat/completions",
        "/openai/v1/x/../chat/completions",
        "/openai/v1/chat%2Fcompletions",
        "/openai/v1/chat/completions;x=1",
        "/openai/v1/chat/completions%00",
        "/openai/v1/chat/completions\x00",
        "/openai/v1/chat/completions#x",
        "/openai/v1\\chat\\completions",
        "/OpenAI/v1/chat/completions",
        "/openai/v1/deployments/gpt-4o/chat/completions",
        "/openai/v1/deployments",
        "/openai/embeddings",
        "/openai/deployments/gpt-4o/files",
        "/openai/deployments/gpt-4o/models",
        "/openai/deployments/gpt-4o/models/x",
        "/openai/models/a/b",
        "/openai/models/..%2F..%2Fx",
        "/v1/chat/completions",
        "/chat/completions",
        "/openai/openai/deployments/gpt-4o/chat/completions",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_that_are_not_azures(method: str, path: str) -> None:
    assert refusal(method, path).status == 404


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "...",
        "%2e%2e",
        "a%2Fb",
        "a%5Cb",
        "a\\b",
        "a;b",
        "a b",
        "a%00",
        "a%0d%0ax",
        "ü",
        "%C3%BC",
        "a" * 129,
        "%",
    ],
)
def test_what_cannot_be_a_deployment_is_not_found(name: str) -> None:
    error = refusal("POST", f"/openai/deployments/{name}/chat/completions")
    assert (error.status, error.code) == (404, "DeploymentNotFound")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "http://evil.example/openai/v1/models"),
        ("POST", "https://evil.example/openai/v1/chat/completions"),
        ("CONNECT", "evil.example:443"),
        ("CONNECT", "/openai/v1/models"),
        ("OPTIONS", "*"),
        ("GET", ""),
        ("GET", "openai/v1/models"),
    ],
)
def test_a_target_that_could_choose_a_host_is_a_bad_request(method: str, path: str) -> None:
    assert refusal(method, path).status == 400


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", "/openai/v1/files/file-1", "DELETE, GET"),
        ("TRACE", "/openai/v1/newfangled", "GET, POST, PUT, PATCH, DELETE"),
        ("DELETE", "/openai/v1/responses", "POST"),
        ("POST", "/openai/v1/models", "GET"),
        ("post", CHAT, "POST"),
        ("OPTIONS", "/openai/v1/embeddings", "POST"),
    ],
)
def test_another_method(method: str, path: str, allowed: str) -> None:
    error = refusal(method, path)
    assert error.status == 405
    assert ("allow", allowed) in error.headers


RIGHT_V1 = "/openai/v1/chat/completions"
RIGHT_CLASSIC = "/openai/deployments/gpt-4o/chat/completions"


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/chat/completions", RIGHT_V1),
        ("/chat/completions", RIGHT_V1),
        ("/openai/v1/chat/completions/", RIGHT_V1),
        ("/openai/v1//chat/completions", RIGHT_V1),
        ("//openai/v1/chat/completions", RIGHT_V1),
        ("/openai/v1/v1/chat/completions", RIGHT_V1),
        ("/openai/openai/v1/chat/completions", RIGHT_V1),
        ("/openai/v2/chat/completions", RIGHT_V1),
        ("/OpenAI/v1/Chat/Completions", RIGHT_V1),
        ("/api/v1/chat/completions", RIGHT_V1),
        ("/openai/v1/chat%2Fcompletions", RIGHT_V1),
        ("/openai/v1/chat/completions;x=1", RIGHT_V1),
        ("/openai/v1/openai/v1/responses", "/openai/v1/responses"),
        ("/v1/embeddings", "/openai/v1/embeddings"),
        ("/openai/v1/deployments/gpt-4o/chat/completions", RIGHT_CLASSIC),
        ("/deployments/gpt-4o/chat/completions", RIGHT_CLASSIC),
        ("/openai/openai/deployments/gpt-4o/chat/completions", RIGHT_CLASSIC),
        ("/openai/v1/openai/deployments/gpt-4o/chat/completions", RIGHT_CLASSIC),
        ("/openai/Deployments/gpt-4o/chat/completions", RIGHT_CLASSIC),
        ("/openai/deployments/gpt-4o/chat/completions/", RIGHT_CLASSIC),
        ("/openai/deployments//chat/completions", "/openai/deployments/{deployment}/chat/completions"),
        ("/openai/chat/completions", "/openai/deployments/{deployment}/chat/completions"),
        ("/openai/chat/completions", RIGHT_V1),
        ("/openai/deployments/gpt-4o/conversations", "/openai/v1/conversations"),
        ("/openai/deployments/gpt-4o/models", "/openai/v1/models"),
        ("/openai/deployments/gpt-4o/chat", "chat/completions, completions, embeddings"),
        ("/openai/v1/chat", "/openai/v1/ there is chat/completions"),
        ("/nowhere", "/openai/deployments/{deployment}/ or /openai/v1/"),
        ("/", "/openai/deployments/{deployment}/ or /openai/v1/"),
    ],
)
def test_a_path_that_is_nearly_right_is_told_the_right_one(path: str, right: str) -> None:
    error = refusal("POST", path + "?api-key=hunter2")
    assert error.status == 404
    said = error.message.partition("'. ")[2]
    assert right in said
    assert "hunter2" not in error.message


@pytest.mark.parametrize("path", ["/openai/deployments/gpt-4o/files", "/openai/v1//chat/completions"])
def test_no_hint_asks_for_what_the_path_has_already(path: str) -> None:
    assert "Paths begin with" not in refusal("POST", path).message


def test_a_deployment_that_cannot_be_one_is_not_repeated() -> None:
    said = refusal("POST", "/deployments/%1b%5b31m/chat/completions").message
    assert "/openai/deployments/{deployment}/chat/completions" in said


def test_a_query_without_bound_is_refused() -> None:
    assert refusal("POST", CHAT + "?" + "api-version=1&" * 100).status == 400


@pytest.mark.parametrize(
    ("api", "version", "knows"),
    [
        ("v1", None, True),
        ("v1", "preview", True),
        ("classic", "2024-10-21", True),
        ("classic", "2024-09-01-preview", True),
        ("classic", "2025-04-01-preview", True),
        ("classic", "2024-08-01-preview", False),
        ("classic", "2024-06-01", False),
        ("classic", "2023-05-15", False),
        ("classic", None, False),
        ("classic", "junk", False),
        ("classic", "9999", False),
    ],
)
def test_which_versions_know_stream_options(api: str, version: str | None, knows: bool) -> None:
    assert knows_stream_options(api, version) is knows  # type: ignore[arg-type]


def test_only_chat_and_completions_take_stream_options() -> None:
    assert parse_target("POST", "/openai/v1/chat/completions").knows_stream_options
    assert not parse_target("POST", "/openai/v1/responses").knows_stream_options
    assert not parse_target("POST", CHAT + "?api-version=2024-06-01").knows_stream_options


@given(
    st.sampled_from(["GET", "POST", "PUT", "CONNECT", ""]),
    st.lists(
        st.sampled_from(
            [
                "/",
                "openai",
                "v1",
                "deployments",
                "chat",
                "completions",
                "models",
                "files",
                "content",
                "responses",
                "..",
                "%2e",
                "?",
                "a",
                "http:",
                "\\",
            ]
        )
        | st.text(max_size=4)
    ).map("".join),
)
def test_each_target_is_understood_or_refused(method: str, path: str) -> None:
    outcome = attempt(method, path)
    if isinstance(outcome, GatewayError):
        assert outcome.status in (400, 404, 405, 501)
        assert outcome.body()
        return
    if outcome.operation.name == "unknown":
        assert outcome.with_prefix("") == path
        assert all(
            re.fullmatch(r"[A-Za-z0-9%._~:@=+-]+", part) for part in path.partition("?")[0].split("/")[1:]
        )
        return
    # What is sent on is one of the known paths and nothing else.
    sent = outcome.with_prefix("", "d").partition("?")[0]
    tail = sent.removeprefix("/openai/").removeprefix("v1/").removeprefix("deployments/d/")
    expected = re.sub(r"\{[^}]*\}", "{}", outcome.operation.path).format(*outcome.ids)
    assert unquote(tail) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/openai/v1/%63hat/completions",
        "/openai/v1/chat/%63ompletions",
        "/openai/v1/%6dodels",
        "/openai/v1/%72ealtime",
        "/openai/v1/responses/resp_1/%69nput_items",
        "/openai/deployments/gpt-4o/%63hat/completions",
        "/openai/v1/something%2Dnew",
        "/openai/v1/something%5Fnew",
    ],
)
def test_a_name_that_is_spelled_with_needless_escapes_is_unknown(path: str) -> None:
    """To what stands behind the gateway it is the plain name."""
    for method in ("GET", "POST"):
        with pytest.raises(GatewayError) as error:
            parse_target(method, path)
        assert error.value.status == 404


@pytest.mark.parametrize("path", ["/openai/v1/fine_tuning/jobs/ftjob%3Aa", "/openai/v1/something/new%3A1"])
def test_an_escape_that_has_to_be_is_none_of_these(path: str) -> None:
    assert parse_target("GET", path).with_prefix("") == path
