import assert from "node:assert/strict";
import { test } from "node:test";
import { fits, parse, toggled } from "../../../addons/aoai_gateway/workbench/page/lib/filters.js";

const row = { id: "1", prompt: "Where is my order?", client: "Support bot", deployment: "gpt-4o", backend: "ptu@sweden", error: "", by: "", state: "done", status: 200, attempts: 1, duration_ms: 1200, tokens_in: 10, tokens_out: 5 };
const shows = (text, changes = {}, found = null) => fits(parse(text), { ...row, ...changes }, found);

test("words are looked for in what a line shows, in any case", () => {
  assert.ok(shows("ORDER where"));
  assert.ok(!shows("order banana"));
});

test("words that only the bodies have are found by the server", () => {
  assert.ok(!shows("banana"));
  assert.ok(shows("banana", {}, new Set(["1"])));
});

test("values are taken with blanks in quotes, and can be excluded", () => {
  assert.ok(shows('client:"Support bot" deployment:gpt-4o'));
  assert.ok(!shows('-client:"Support bot"'));
  assert.ok(!shows("client:Reports"));
});

test("what happened, how slow, how many tokens", () => {
  assert.ok(shows("is:failed", { status: 429 }));
  assert.ok(!shows("is:failed"));
  assert.ok(shows("is:replayed", { attempts: 2 }));
  assert.ok(shows("slower:1s") && !shows("slower:2s") && shows("slower:900ms"));
  assert.ok(shows("tokens:>15") && !shows("tokens:<15"));
  assert.ok(!shows("is:nonsense"));
});

test("a click adds a term, another takes it away", () => {
  const once = toggled("late", "client", "Support bot");
  assert.equal(once, 'late client:"Support bot"');
  assert.equal(toggled(once, "client", "Support bot"), "late");
});

test("a name that is none is a word", () => {
  assert.deepEqual(parse("say:hello").words, ["say:hello"]);
});
