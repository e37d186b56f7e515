import assert from "node:assert/strict";
import { test } from "node:test";
import { turns, tools } from "../../../addons/aoai_gateway/workbench/page/lib/conversation.js";
import { add, addTool, duplicate, emptyBody, messages, move, remove, setRole } from "../../../addons/aoai_gateway/workbench/page/lib/draft.js";
import { check, typed, PARAMETERS } from "../../../addons/aoai_gateway/workbench/page/lib/parameters.js";
import { names } from "../../../addons/aoai_gateway/workbench/page/lib/variables.js";
import { lines } from "../../../addons/aoai_gateway/workbench/page/lib/threads.js";
import { EventReader } from "../../../addons/aoai_gateway/workbench/page/lib/sse.js";

const chat = () => ({ operation: "chat.completions", body: { messages: [{ role: "system", content: "s" }, { role: "user", content: "u" }] } });

test("messages are added, moved and removed", () => {
  const draft = chat();
  add(draft, 2);
  assert.equal(draft.body.messages[2].role, "assistant");
  assert.equal(move(draft, 2, -1), 1);
  remove(draft, 0);
  assert.deepEqual(draft.body.messages.map((each) => each.role), ["assistant", "user"]);
  assert.equal(move(draft, 0, -1), 0);
});

test("a copy of a message is another one", () => {
  const draft = chat();
  duplicate(draft, 0);
  draft.body.messages[1].content = "changed";
  assert.deepEqual(draft.body.messages.map((each) => each.content), ["s", "changed", "u"]);
});

test("a tool can be added where what was sent as tools is no list", () => {
  const draft = { operation: "chat.completions", body: { tools: "text" } };
  addTool(draft);
  assert.equal(draft.body.tools.length, 1);
});

test("what begins a parameter's box is valid there", () => {
  for (const [operation, rules] of Object.entries(PARAMETERS)) {
    for (const [name, rule] of Object.entries(rules)) {
      if (rule.begin) assert.equal(check(operation, name, rule.begin, "gpt-4o").problem, undefined, `${operation} ${name}`);
    }
  }
});

test("a role brings and takes what only it has", () => {
  const message = { role: "assistant", content: null, tool_calls: [{}] };
  setRole(message, "tool");
  assert.deepEqual(message, { role: "tool", content: "", tool_call_id: "" });
});

test("a text becomes a list when a message is added", () => {
  const draft = { operation: "responses", body: { input: "hello" } };
  assert.equal(messages(draft), null);
  add(draft, Infinity);
  assert.deepEqual(draft.body.input, [{ role: "user", content: "hello" }, { role: "assistant", content: "" }]);
});

test("a tool has the form of its operation", () => {
  const draft = chat();
  addTool(draft);
  assert.equal(tools(draft.body)[0].name, "new_tool");
  const other = { operation: "responses", body: emptyBody("responses", "m") };
  addTool(other);
  assert.equal(other.body.tools[0].name, "new_tool");
});

test("turns of all operations", () => {
  const found = turns("responses", { instructions: "i", input: [{ role: "user", content: [{ type: "input_text", text: "a" }] }, { type: "function_call", call_id: "c", name: "f", arguments: "{}" }, { type: "function_call_output", call_id: "c", output: "o" }, { type: "reasoning", summary: [] }] });
  assert.deepEqual(found.map((each) => each.role), ["instructions", "user", "assistant", "tool", "reasoning"]);
  assert.deepEqual(turns("embeddings", { input: ["a", "b"] }).map((each) => each.texts), [["a"], ["b"]]);
  assert.deepEqual(turns("completions", { prompt: "p" })[0].texts, ["p"]);
  for (const odd of [null, 1, [], { messages: [null, 1, "x", { role: 5, content: 7, tool_calls: [null] }] }]) turns("chat.completions", odd);
});

test("parameters: kinds and bounds, by operation", () => {
  assert.equal(check("chat.completions", "temperature", 3).problem, "not above 2");
  assert.equal(check("chat.completions", "max_completion_tokens", 1.5).problem, "a whole number");
  assert.equal(check("chat.completions", "stream", "yes").problem, "true or false");
  assert.deepEqual(check("chat.completions", "something_new", {}), {});
  assert.equal(typed(PARAMETERS["chat.completions"].response_format, "{oops"), undefined);
});

test("parameters: what a model refuses is a warning", () => {
  assert.match(check("chat.completions", "temperature", 1, "o3-mini").warning, /reasoning model/);
  assert.match(check("chat.completions", "max_tokens", 10, "gpt-5").warning, /max_completion_tokens/);
  assert.match(check("chat.completions", "reasoning_effort", "low", "gpt-4o").warning, /no reasoning model/);
});

test("variables", () => {
  assert.deepEqual(names({ a: "{{ x }} {{y}}", b: ["{{x}}"] }), ["x", "y"]);
});

test("calls of a thread are together, newest first", () => {
  const rows = [{ id: "3", client: "c", thread: "t" }, { id: "2", client: "c", thread: "" }, { id: "1", client: "c", thread: "t" }];
  assert.deepEqual(lines(rows, new Set()).map((line) => [line.row.id, line.more]), [["3", 1], ["2", 0]]);
  assert.deepEqual(lines(rows, new Set(["c t"])).map((line) => line.row.id), ["3", "1", "2"]);
});

test("events come in pieces", () => {
  const reader = new EventReader();
  assert.deepEqual(reader.feed('event: rows\nda'), []);
  assert.deepEqual(reader.feed('ta: [1]\n\nevent: gone\ndata: ["a"]\n\n'), [{ event: "rows", data: [1] }, { event: "gone", data: ["a"] }]);
});
