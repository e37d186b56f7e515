import assert from "node:assert/strict";
import { test } from "node:test";
import { alike, asJson, structure, variance, words } from "../../../addons/aoai_gateway/workbench/page/lib/diff.js";

const side = (steps, kind) => steps.filter((step) => step.kind !== kind).map((step) => step.text).join("");

test("both texts can be read out of a diff", () => {
  const texts = ["", "a", "the quick brown fox", "the slow brown fox jumps", "one two three four", "four three two one", "a\n\nb c", "ünïcode wörds, änd punctuation!"];
  for (const before of texts) for (const after of texts) {
    const steps = words(before, after);
    assert.equal(side(steps, "new"), before);
    assert.equal(side(steps, "gone"), after);
  }
});

test("only what differs is marked", () => {
  assert.deepEqual(words("the quick fox", "the slow fox"), [
    { kind: "same", text: "the " }, { kind: "gone", text: "quick" }, { kind: "new", text: "slow" }, { kind: "same", text: " fox" },
  ]);
});

test("long texts that have nothing in common come to an end", () => {
  const began = performance.now();
  const [before, after] = ["a", "b"].map((letter) => Array.from({ length: 5000 }, (_, at) => `${letter}${at}`).join(" "));
  assert.equal(side(words(before, after), "new"), before);
  assert.ok(performance.now() - began < 5000);
});

test("JSON is compared by structure", () => {
  assert.deepEqual(structure({ a: 1, b: [1, 2], c: "x" }, { c: "y", b: [1, 3, 4], a: 1 }), [
    { path: "$.b[1]", kind: "changed", before: 2, after: 3 }, { path: "$.b[2]", kind: "new", after: 4 }, { path: "$.c", kind: "changed", before: "x", after: "y" },
  ]);
  assert.deepEqual(structure({ a: { b: 1 } }, { a: { b: 1 } }), []);
});

test("JSON is known, also in a fence", () => {
  assert.deepEqual(asJson('```json\n{"a": 1}\n```'), { a: 1 });
  assert.equal(asJson("{not json}"), undefined);
  assert.equal(asJson("12"), undefined);
});

test("variance of several answers", () => {
  const found = variance(["a b", "a b", "a c"], [100, 200, 300]);
  assert.equal(found.latency.mean, 200);
  assert.equal(found.words.least, 2);
  assert.ok(found.agreement > 0.7 && found.agreement < 1);
  assert.equal(alike("x", "x"), 1);
});

test("an element that is put in or taken out is one difference, wherever it is", () => {
  const list = [{ a: 1 }, { a: 2 }, { a: 3 }];
  const put = [list[0], { a: 9 }, ...list.slice(1)];
  assert.deepEqual(structure({ list }, { list: put }), [{ path: "$.list[1]", kind: "new", after: { a: 9 } }]);
  assert.deepEqual(structure({ list: put }, { list }), [{ path: "$.list[1]", kind: "gone", before: { a: 9 } }]);
  assert.deepEqual(structure([1, 2, 3], [1, 5, 3]), [{ path: "$[1]", kind: "changed", before: 2, after: 5 }]);
  assert.deepEqual(structure([1, 1], [1]), [{ path: "$[1]", kind: "gone", before: 1 }]);
  assert.deepEqual(structure([{ a: 1 }, 2], [{ a: 2 }, 2, 3]).map((each) => each.path), ["$[0].a", "$[2]"]);
});
