import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { isLarger } from "../../../addons/aoai_gateway/workbench/page/lib/draft.js";
import { forget, keep, kept } from "../../../addons/aoai_gateway/workbench/page/lib/kept.js";

const setup = { places: ["gpt-4o", "mini"], clients: ["Bot"] };
const draft = (text) => ({ operation: "chat.completions", body: { messages: [{ role: "user", content: text }] }, client: "Bot", places: ["gpt-4o", "gone"], count: 2, variables: {}, expect: [], run: { large: true } });
const text = () => kept("call", setup).body?.messages[0].content;

/** A tab's storage, with room for so many characters. */
class Storage {
  constructor(room) {
    this.room = room;
    this.texts = new Map();
  }

  getItem(name) {
    return this.texts.get(name) ?? null;
  }

  setItem(name, text) {
    if (text.length > this.room) throw new DOMException("full", "QuotaExceededError");
    this.texts.set(name, text);
  }

  removeItem(name) {
    this.texts.delete(name);
  }
}

const offer = (get) => Object.defineProperty(globalThis, "sessionStorage", { configurable: true, get });
let storage;

beforeEach(() => {
  storage = new Storage(1_000_000);
  offer(() => storage);
});

test("a draft is kept for where it can still run, without its answers", () => {
  keep("call", draft("first"));
  const { body, run, ...rest } = kept("call", setup);
  assert.deepEqual(rest, { operation: "chat.completions", client: "Bot", places: ["gpt-4o"], count: 2, variables: {}, expect: [] });
  assert.equal(text(), "first");
  assert.equal(run, undefined);
  assert.deepEqual(kept("another call", setup), {});
  forget("call");
  assert.deepEqual(kept("call", setup), {});
});

test("a draft that has become too large does not come back as it was before", () => {
  keep("call", draft("first"));
  keep("call", draft("x".repeat(500_001)));
  assert.equal(text(), undefined);
});

test("nor does one for which the tab has no room left", () => {
  keep("call", draft("first"));
  storage.room = 300;
  keep("call", draft("x".repeat(300)));
  assert.equal(text(), undefined);
});

test("a browser that forbids storage keeps no draft, and that is all", () => {
  offer(() => { throw new DOMException("forbidden", "SecurityError"); });
  keep("call", draft("first"));
  assert.deepEqual(kept("call", setup), {});
  forget("call");
});

test("what is no draft is none", () => {
  for (const written of ["{", "[]", "7", "null", '{"body": {}}']) {
    storage.setItem("workbench-draft-call", written);
    assert.deepEqual(kept("call", setup), {}, written);
  }
});

test("a large value is known by what is in it, wherever that is", () => {
  for (const value of ["x".repeat(200), [["x".repeat(200)]], { a: { b: "x".repeat(200) } }, { ["x".repeat(200)]: 1 }, Array(100).fill(null)]) {
    assert.equal(isLarger(value, 150), true);
    assert.equal(isLarger(value, 1_000), false);
  }
  assert.equal(isLarger(null, 150), false);
});
