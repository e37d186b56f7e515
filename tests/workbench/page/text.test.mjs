import assert from "node:assert/strict";
import { test } from "node:test";
import { hiddenIn, visible } from "../../../addons/aoai_gateway/workbench/page/lib/text.js";

test("what cannot be seen is named", () => {
  assert.deepEqual(visible("a\u202eb\u200bc\u001b[31m"), [
    "a", { code: "U+202E", name: "right-to-left override" }, "b", { code: "U+200B", name: "zero-width space" }, "c", { code: "ESC", name: "escape" }, "[31m",
  ]);
});

test("lines, tabs, emoji that are joined, and right-to-left letters stay", () => {
  const text = "a\tb\nc\r\nd 👩‍🚀 שלום";
  assert.deepEqual(visible(text).join(""), text);
});

test("halves of surrogate pairs and tag characters", () => {
  assert.equal(hiddenIn("x\ud800y\u{e0041}"), 2);
});
