"""The workbench of a real gateway, headless and in mitmweb: who may ask, what it tells, what it sends."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from aoai_gateway.app import cli
from aoai_gateway.rerun import command
from tests.e2e import json_lines
from tests.e2e.inspector import PASSWORD, inspecting
from tests.e2e.processes import Answer, Gateway, Simulator, eventually, request
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import running

pytestmark = pytest.mark.e2e

TOKEN = "token-of-the-workbench-91"
PATH = "/openai/v1/chat/completions"
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" + "A" * 4000

PICTURES_PLACE = "%2Fmessages%2F0%2Fcontent%2F1%2Fimage_url%2Furl"
ASKED: dict[str, Any] = {
    "operation": "chat.completions", "body": {"messages": []}, "places": ["gpt-4o"], "client": "Tester"
}  # fmt: skip


class Workbench:
    """The workbench at an address, and the gateway that it belongs to."""

    def __init__(self, gateway: Gateway, simulator: Simulator, url: str, token: str, folder: Path) -> None:
        self.gateway, self.simulator, self.url, self.token, self.folder = (
            gateway,
            simulator,
            url,
            token,
            folder,
        )

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {"authorization": f"Bearer {self.token}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return request(f"{self.url}/workbench{path}", method, headers=sent, json_body=body, seconds=60)

    def get(self, path: str) -> Any:
        answer = self.ask("GET", f"/api{path}")
        assert answer.status == 200, answer.body
        return answer.json()

    def send(self, method: str, path: str, **body: Any) -> Any:
        answer = self.ask(method, f"/api{path}", body)
        assert answer.status == 200, answer.body
        return answer.json()

    def events(self, path: str, until: Callable[[str, Any], bool]) -> list[tuple[str, Any]]:
        """Read an event stream until one fits, or to its end."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        found: list[tuple[str, Any]] = []
        try:
            headers = {"authorization": f"Bearer {self.token}"}
            connection.request("GET", f"/workbench/api{path}", headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            name = ""
            while line := answer.readline().decode():
                if line.startswith("event: "):
                    name = line[7:].strip()
                elif line.startswith("data: "):
                    found.append((name, json.loads(line[6:])))
                    if until(*found[-1]):
                        break
        finally:
            connection.close()
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return the list, newest first."""
        events = self.events("/calls", lambda name, _: name == "ready")
        rows = [row for name, data in events if name == "rows" for row in data]
        return sorted(rows, key=lambda row: -row["at"])

    def call(self, text: Any, **changes: Any) -> Answer:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]} | changes
        return self.gateway.request("POST", PATH, key=CLIENT_KEY, json_body=body)

    def row(self, text: str) -> dict[str, Any]:
        """Wait for the call whose prompt begins so, and give its line."""
        found = eventually(
            lambda: [r for r in self.rows() if r["prompt"].startswith(text) and r["state"] == "done"], text
        )
        return dict(found[0])

    def run(self, **asked: Any) -> list[dict[str, Any]]:
        """Run a prompt to its end; gives the calls."""
        run = self.send("POST", "/runs", **({"client": "Tester", "by": "Ada", "count": 1} | asked))
        self.events(f"/runs/{run['run']}", lambda *_: False)
        return [self.get(f"/calls/{entry['id']}") for entry in run["entries"]]


@pytest.fixture(scope="module", params=["headless", "mitmweb"])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, home: Path
) -> Iterator[Workbench]:
    folder = tmp_path_factory.mktemp("workbench")
    prices = {"gpt-4o": {"input": 2.5, "output": 10}}
    sections: Mapping[str, Any] = {"prices": prices, "usage_log": "usage.jsonl"}
    if request.param == "mitmweb":
        with inspecting(folder, home, workbench={"sets": "my-sets"}, **sections) as (inspector, simulator):
            url = f"http://127.0.0.1:{inspector.web_port}"
            yield Workbench(inspector, simulator, url, PASSWORD, folder)
        return
    admin = {"port": 0, "token": TOKEN}
    with running(
        "serve", folder, home, admin=admin, workbench={"enabled": True, "sets": "my-sets"}, **sections
    ) as (gateway, simulator):
        gateway.wait_until(lambda: "Workbench at" in gateway.log, "showing its workbench")
        (url,) = re.findall(r"Workbench at (http://\S+)/workbench", gateway.log)
        yield Workbench(gateway, simulator, url, TOKEN, folder)


@pytest.fixture(autouse=True)
def at_rest(bench: Workbench) -> None:
    bench.simulator.reset()


def test_the_page_needs_no_key_and_its_data_does(bench: Workbench) -> None:
    page = request(f"{bench.url}/workbench")
    assert page.status == 200
    assert b"<title>Workbench</title>" in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("main.js", "style.css", "views/list.js"):
        assert request(f"{bench.url}/workbench/{path}").status == 200
    for path in ("setup", "calls", "calls/00", "search?text=a", "sets", "runs/00"):
        refused = request(f"{bench.url}/workbench/api/{path}")
        assert refused.status in (401, 403), path
        assert refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/../main.py", "/%2e%2e/main.py", "/setup.py", "/views/../main.js"])
def test_only_the_pages_own_files_are_served(bench: Workbench, path: str) -> None:
    assert request(f"{bench.url}/workbench{path}").status in (403, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"content_type": "text/plain"},
        {"authorization": "Bearer wrong-token-of-somebody"},
    ],
)
def test_other_pages_cannot_make_it_send(bench: Workbench, headers: dict[str, str]) -> None:
    asked = {
        "operation": "chat.completions",
        "body": {"messages": []},
        "places": ["gpt-4o"],
        "client": "Tester",
    }
    refused = bench.ask("POST", "/api/runs", asked, **headers)
    assert refused.status in (401, 403, 415)
    assert bench.simulator.requests() == []


def test_a_call_is_told_and_read(bench: Workbench) -> None:
    bench.call("say:Hello **you**", stream=True, stream_options={"include_usage": True})
    row = bench.row("say:Hello")
    assert (row["client"], row["deployment"], row["status"]) == ("Tester", "gpt-4o", 200)
    assert row["cost"] > 0
    call = bench.get(f"/calls/{row['id']}")
    assert call["request"]["body"]["messages"] == [{"role": "user", "content": "say:Hello **you**"}]
    (choice,) = call["answer"]["choices"]
    assert choice["parts"] == [{"kind": "text", "title": "", "text": "Hello **you**"}]
    assert call["messages"][0]["tokens"] > 0
    assert any("sent to" in line or "gpt-4o-ptu" in line for line in call["story"])
    assert [attempt["status"] for attempt in call["timeline"]] == [200]
    assert CLIENT_KEY not in json.dumps(call)


def test_failed_attempts_are_part_of_the_call(bench: Workbench) -> None:
    bench.simulator.fault("429", deployment="gpt-4o-ptu")
    bench.call("say:replayed")
    row = bench.row("say:replayed")
    assert row["attempts"] == 2
    call = bench.get(f"/calls/{row['id']}")
    (attempt,) = call["attempts"]
    assert (attempt["status"], attempt["backend"]) == (429, "gpt-4o-ptu@sweden")
    assert [each["reason"] is None for each in call["timeline"]] == [False, True]


def test_the_list_follows(bench: Workbench) -> None:
    seen: list[str] = []

    def follows(name: str, data: Any) -> bool:
        if name == "ready":
            bench.call("say:live")
        seen.extend(row["prompt"] for row in data if row["state"] == "done") if name == "rows" else None
        return "say:live" in seen

    bench.events("/calls", follows)
    assert "say:live" in seen


def test_a_text_is_found_in_prompts_and_answers(bench: Workbench) -> None:
    bench.call('say:the "needle"\nof ünïcode')
    row = bench.row("say:the")
    for text in ("NEEDLE", '"needle"\nof', "ünïcode"):
        assert row["id"] in bench.get(f"/search?text={quote(text)}")["ids"], text
    assert row["id"] not in bench.get("/search?text=haystack")["ids"]


def test_an_edit_runs_in_several_places_as_calls_like_any_other(bench: Workbench) -> None:
    image = {"type": "image_url", "image_url": {"url": PICTURE}}
    bench.call([{"type": "text", "text": "say:original"}, image])
    row = bench.row("say:original")
    call = bench.get(f"/calls/{row['id']}")
    body = call["request"]["body"]
    part = bench.ask("GET", f"/api/calls/{row['id']}/part?pointer={PICTURES_PLACE}")
    assert part.headers["content-type"] == "image/png"
    body["messages"][0]["content"][0]["text"] = "say:Hello {{name}}\nand more"
    bench.simulator.reset()
    places = ["gpt-4o", "gpt-4o-mini", "gpt-4o-france@france"]
    calls = bench.run(call=row["id"], body=body, places=places, variables={"name": "Ada"})
    texts = [each["answer"]["choices"][0]["parts"][0]["text"] for each in calls]
    assert texts == ["Hello Ada\nand more"] * 3
    sent = [request["deployment"] for request in bench.simulator.requests()]
    assert len(sent) == 3
    assert {"gpt-4o-mini", "gpt-4o-france"} < set(sent)
    assert [each["row"]["by"] for each in calls] == ["Ada"] * 3
    # The image went along, though the page has never had it.
    assert json.loads(
        bench.ask("GET", f"/api/calls/{calls[0]['id']}/part?pointer=").body
    )["messages"][0]["content"][1] == image  # fmt: skip
    records = eventually(
        lambda: [r for r in json_lines.read(bench.folder / "usage.jsonl") if r["run_by"] == "Ada"][-3:],
        "records",
    )
    assert {record["client"] for record in records} == {"Tester"}


def test_a_stream_of_a_run_comes_piece_by_piece(bench: Workbench) -> None:
    body = {
        "messages": [{"role": "user", "content": "say:" + "word " * 40}],
        "stream": True,
        "model": "gpt-4o",
    }
    asked = {
        "operation": "chat.completions",
        "body": body,
        "places": ["gpt-4o"],
        "client": "Tester",
        "count": 2,
    }
    run = bench.send("POST", "/runs", **asked)
    told = [entry for _, data in bench.events(f"/runs/{run['run']}", lambda *_: False) for entry in data]
    for entry in run["entries"]:
        text = "".join(each["text"] for each in told if each["id"] == entry["id"])
        assert text.split() == ["word"] * 40
    assert {each["state"] for each in told[-2:]} == {"done"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"places": []}, "Choose where"),
        ({"places": ["gpt-99"]}, "gpt-99"),
        ({"client": "Nobody"}, "no client"),
        ({"count": 99}, "32 calls"),
        ({"body": {"model": "m", "x": {"$kept": "/a"}}}, "no longer here"),
    ],
)
def test_what_cannot_be_run_is_refused(bench: Workbench, changes: dict[str, Any], says: str) -> None:
    asked = {
        "operation": "chat.completions",
        "body": {"messages": []},
        "places": ["gpt-4o"],
        "client": "Tester",
    }
    refused = bench.ask("POST", "/api/runs", {**asked, **changes})
    assert refused.status == 409
    assert says in refused.json()["error"]["message"]


def test_a_call_as_code(bench: Workbench) -> None:
    bench.call("say:code")
    row = bench.row("say:code")
    code = bench.get(f"/calls/{row['id']}/code?language=python")["code"]
    assert 'model="gpt-4o"' in code
    assert "AOAI_GATEWAY_KEY" in code
    assert bench.ask("GET", f"/api/calls/{row['id']}/code?language=cobol").status == 409


def test_a_prompt_of_megabytes_is_read_elsewhere(bench: Workbench) -> None:
    text = "say:big " + "<b>word</b> " * 300_000
    bench.call(text)
    row = eventually(lambda: [r for r in bench.rows() if r["prompt"].startswith("(a prompt")], "the prompt")[
        0
    ]
    call = bench.get(f"/calls/{row['id']}")
    kept = call["request"]["body"]["messages"][0]["content"]
    assert kept["length"] == len(text)
    whole = bench.ask("GET", f"/api/calls/{row['id']}/part?pointer={quote(kept['$kept'])}")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.body.decode() == text


def test_answers_are_checked_and_judged(bench: Workbench) -> None:
    bench.call('say:{"passed": true, "reason": "said so"}')
    ident = bench.row('say:{"passed"')["id"]
    expect = [
        {"contains": "passed"}, {"regex": "^(a+)+$"}, {"json_schema": {"required": ["nothing"]}},
        {"judge": {"rubric": "say:{\"passed\": false}", "deployment": "gpt-4o-mini"}},
    ]  # fmt: skip
    results = bench.send("POST", "/check", call=ident, expect=expect, client="Tester", by="Ada")["results"]
    assert [each["passed"] for each in results[:3]] == [True, False, False]
    # A judge is a call that is paid for: none is asked if what is asked for cannot be done.
    known = len(bench.rows())
    judges = [expect[-1], {"judge": {"rubric": "say: nothing"}}]
    refused = bench.ask("POST", "/api/check", {"call": ident, "expect": judges, "client": "Tester"})
    assert (refused.status, len(bench.rows())) == (409, known)
    # The simulator is no judge: what it says is not a verdict, and that is told.
    assert results[3]["passed"] is False
    assert bench.get(f"/calls/{results[3]['call']}")["row"]["deployment"] == "gpt-4o-mini"


def test_sets_are_files_that_the_terminal_runs_too(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def case(name: str, says: str) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": "say:Hello\nAda"}]}
        return {"name": name, "operation": "chat.completions", "body": body, "expect": [{"contains": says}]}

    document = {"name": "greetings", "deployment": "gpt-4o", "cases": [case("good", "Hello\nAda")]}
    bench.send("PUT", "/sets/greetings.yaml", set=document)
    path = bench.folder / "my-sets" / "greetings.yaml"
    assert "content: |-\n" in path.read_text()
    assert bench.get("/sets")["names"] == ["greetings.yaml"]
    assert bench.get("/sets/greetings.yaml")["set"] == document

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setenv(command.KEY_VARIABLE, CLIENT_KEY)
        code = cli.main(["rerun", "--set", str(path), "--to", bench.gateway.url, *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = run("--prices", str(bench.gateway.config_path))
    assert code == 0, said
    assert re.search(r"1 passed  good; gpt-4o; tokens \d+ in, \d+ out; \d+ ms; cost 0\.\d+", said)
    document["cases"] = [*document["cases"], case("bad", "Goodbye")]  # type: ignore[misc]
    bench.send("PUT", "/sets/greetings.yaml", set=document)
    code, said = run("--deployment", "gpt-4o-mini")
    assert code == 1
    assert "2 FAILED  bad; gpt-4o-mini" in said
    assert "contains: 'Goodbye' is not in the answer" in said
    assert "2 cases: 1 passed, 1 failed" in said
    code, said = run("--json")
    assert code == 1
    assert [each["passed"] for each in json.loads(said)["cases"]] == [True, False]


@pytest.mark.parametrize("name", ["..%2Fx.yaml", "x.txt", ".x.yaml", "a%00.yaml", "x%2Fy.yaml"])
def test_no_file_is_written_elsewhere(bench: Workbench, name: str) -> None:
    refused = bench.ask("PUT", f"/api/sets/{name}", {"set": {"cases": []}})
    assert refused.status in (400, 404, 409)


def test_a_broken_set_is_refused_with_its_place(bench: Workbench) -> None:
    refused = bench.ask("PUT", "/api/sets/x.yaml", {"set": {"cases": [{"name": "N", "body": 1}]}})
    assert refused.status == 409
    assert "case 1 (N): body is a request" in refused.json()["error"]["message"]


def test_calls_of_a_client_are_held_edited_and_let_go(bench: Workbench) -> None:
    import threading

    assert bench.send("POST", "/hold", client="Tester") == {"held_client": "Tester"}
    answers: list[Answer] = []
    waiting = threading.Thread(target=lambda: answers.append(bench.call("say:as it was")))
    waiting.start()
    try:
        row = eventually(lambda: [r for r in bench.rows() if r["state"] == "held"], "a held call")[0]
        body = bench.get(f"/calls/{row['id']}")["request"]["body"]
        body["messages"][0]["content"] = "say:as edited"
        bench.send("PUT", f"/calls/{row['id']}", body=body)
        bench.send("POST", f"/calls/{row['id']}/release")
        waiting.join(60)
    finally:
        bench.send("POST", "/hold", client=None)
    assert b"as edited" in answers[0].body
    assert "edited" in bench.get(f"/calls/{row['id']}")["noted"]["held"]
    assert bench.ask("PUT", f"/api/calls/{row['id']}", {"body": body}).status == 409


def test_a_call_that_is_gone(bench: Workbench) -> None:
    answer = bench.ask("GET", "/api/calls/00000000-0000-0000-0000-000000000000")
    assert answer.status == 404
    assert "no longer here" in answer.json()["error"]["message"]


@pytest.mark.parametrize("bench", ["mitmweb"], indirect=True)
def test_mitmwebs_own_way_in(bench: Workbench) -> None:
    let_in = request(f"{bench.url}/?token={PASSWORD}")
    cookie = let_in.headers["set-cookie"].partition(";")[0]
    assert request(f"{bench.url}/workbench/api/setup", headers={"cookie": cookie}).status == 200
    other = {"cookie": cookie, "origin": "https://evil.example"}
    assert request(f"{bench.url}/workbench/api/hold", "POST", headers=other, json_body={}).status == 403


def test_a_plugin_sees_what_became_of_a_call_though_no_page_does(tmp_path: Path, home: Path) -> None:
    admin, addon = {"port": 0, "token": TOKEN}, Path(__file__).parent / "addons" / "log_comments.py"
    with running("serve", tmp_path, home, addons=[addon], admin=admin, workbench={"enabled": True}) as (
        gateway,
        _,
    ):
        gateway.wait_until(lambda: "Workbench at" in gateway.log, "showing its workbench")
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Where is order 4711?"}]}
        assert gateway.request("POST", PATH, key=CLIENT_KEY, json_body=body).status == 200
        gateway.wait_until(lambda: "comment:" in gateway.log, "telling the plugin")
        assert re.search("comment: “Where is order 4711[?]” .*; story: [4-9]", gateway.log), gateway.log
