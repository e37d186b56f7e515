// Claude's requests, which keep the system's words, calls of tools and their results elsewhere than others.

import assert from "node:assert/strict";
import test from "node:test";
import { names } from "../../../addons/aoai_gateway/workbench/page/lib/format.js";
import { answersById, tools, turns } from "../../../addons/aoai_gateway/workbench/page/lib/conversation.js";
import { addTool, emptyBody } from "../../../addons/aoai_gateway/workbench/page/lib/draft.js";
import { check } from "../../../addons/aoai_gateway/workbench/page/lib/parameters.js";

const kept = { $kept: "/messages/0/content/1/source/data", kind: "image", words: "base64" };
const body = {
  model: "claude-sonnet-5", max_tokens: 5,
  system: [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }],
  messages: [
    { role: "user", content: [{ type: "text", text: "And this?" }, { type: "image", source: { type: "base64", data: kept } }] },
    { role: "assistant", content: [{ type: "thinking", thinking: "Hm.", signature: "s" }, { type: "tool_use", id: "t1", name: "look", input: { at: 1 } }] },
    { role: "user", content: [{ type: "tool_result", tool_use_id: "t1", content: [{ type: "text", text: "A cat" }] }] },
    { role: "assistant", content: "A cat." },
  ],
  tools: [{ name: "look", description: "Looks.", input_schema: { type: "object" } }],
};

test("a conversation with Claude", () => {
  const all = turns("messages", body);
  assert.deepEqual(all.map((turn) => turn.role), ["system", "user", "assistant", "user", "assistant"]);
  assert.deepEqual(all.map((turn) => turn.index), [null, 0, 1, 2, 3]);
  assert.deepEqual(all.map((turn) => turn.texts), [["Be brief."], ["And this?", kept], [{ type: "thinking", text: "Hm." }], ["A cat"], ["A cat."]]);
  assert.deepEqual(all[2].calls, [{ id: "t1", name: "look", arguments: { at: 1 } }]);
  assert.equal(answersById(all).get("t1"), 3);
});

test("what Claude thought is not what it said, and Anthropic's own tools are called, too", () => {
  const content = [{ type: "thinking", thinking: null }, { type: "redacted_thinking", data: "QUJD" }, { type: "server_tool_use", id: "s1", name: "web_search", input: { query: "x" } }, { type: "text", text: "So." }];
  const [turn] = turns("messages", { messages: [{ role: "assistant", content }] });
  assert.deepEqual(turn.texts, [{ type: "thinking", text: "" }, { type: "thinking", text: "", redacted: true }, "So."]);
  assert.deepEqual(turn.calls, [{ id: "s1", name: "web_search", arguments: { query: "x" } }]);
});

test("a number that a browser cannot hold is a parameter, and a form's sound is not", () => {
  const file = { $kept: "/file", kind: "audio", words: "2 KB" };
  const all = turns("audio.transcriptions", { seed: { $kept: "/seed", kind: "data", words: "the number 1" }, file });
  assert.deepEqual(all.map((turn) => turn.role), ["file"]);
});

test("a line of names ends with a whole one", () => {
  assert.equal(names(["one", "two"]), "one, two");
  assert.equal(names(["one", "two", "three"], 10), "one, two, …");
  assert.equal(names(["one", "two", "three"], 7), "one, …");
});

test("tools in a namespace are tools", () => {
  const grouped = { type: "namespace", name: "agents", tools: [{ type: "function", name: "spawn", parameters: { type: "object" } }] };
  const found = tools({ tools: [grouped, { type: "function", name: "look" }, { type: "namespace" }] });
  assert.deepEqual(found.map((each) => each.name), ["agents.spawn", "look", "namespace"]);
  assert.deepEqual(found[0].parameters, { type: "object" });
});

test("its tools", () => {
  const [tool] = tools(body);
  assert.deepEqual([tool.name, tool.description, tool.parameters], ["look", "Looks.", { type: "object" }]);
  const draft = { operation: "messages", body: emptyBody("messages", "m") };
  addTool(draft);
  assert.deepEqual(Object.keys(draft.body.tools[0]), ["name", "description", "input_schema"]);
});

test("a new prompt has what Claude insists on", () => {
  const made = emptyBody("messages", "m");
  assert.equal(check("messages", "max_tokens", made.max_tokens, "m").problem, undefined);
  assert.deepEqual(made.messages, [{ role: "user", content: "" }]);
});
