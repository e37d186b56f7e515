import assert from "node:assert/strict";
import { test } from "node:test";
import { inline, parse } from "../../../addons/aoai_gateway/workbench/page/lib/markdown.js";

test("blocks", () => {
  const kinds = parse("# T\n\ntext\nmore\n\n- a\n- b\n\n1. x\n2. y\n\n> q\n\n---\n\n```js\nlet a;\n```\n\n| a | b |\n|---|:-:|\n| 1 | 2 |").map((each) => each.kind);
  assert.deepEqual(kinds, ["heading", "paragraph", "list", "list", "quote", "rule", "code", "table"]);
});

test("code keeps what is in it", () => {
  assert.equal(parse("```\n<script>alert(1)</script>\n**x**\n```")[0].text, "<script>alert(1)</script>\n**x**");
});

test("an unclosed fence, as a stream leaves it, is code to its end", () => {
  assert.deepEqual(parse("```py\nprint(1)"), [{ kind: "code", language: "py", text: "print(1)" }]);
});

test("inline marks", () => {
  assert.deepEqual(inline("a **b** `c` _d_ snake_case_name 2 * 3 * 4"), [
    "a ", { kind: "strong", inline: ["b"] }, " ", { kind: "code", text: "c" }, " ", { kind: "emphasis", inline: ["d"] }, " snake_case_name 2 * 3 * 4",
  ]);
});

test("HTML is text", () => {
  assert.deepEqual(inline("<img src=x onerror=alert(1)>"), ["<img src=x onerror=alert(1)>"]);
});

test("only addresses of the web can be followed, and images are not fetched", () => {
  assert.equal(inline("[x](https://example.com/a)")[0].safe, true);
  for (const address of ["javascript:alert`1`", "data:text/html,x", "vbscript:x", "//host/x", "JaVaScRiPt:x", "file:///etc/passwd"]) {
    assert.equal(inline(`[x](${address})`)[0].safe, false, address);
  }
  assert.equal(inline("![x](https://example.com/a.png)")[0].safe, false);
});

test("nested lists", () => {
  const [list] = parse("- a\n  - b\n  - c\n- d");
  assert.equal(list.items.length, 2);
  assert.equal(list.items[0][1].kind, "list");
});

test("hostile texts take no time", () => {
  for (const piece of ["*", "_", "`", "[", "> ", "- ", "**a ", "[a](", "|", "#", "~~", "![", "1. ", "_a", "*a *"]) {
    const began = performance.now();
    parse(piece.repeat(60_000 / piece.length));
    parse(`${piece}\n`.repeat(20_000));
    assert.ok(performance.now() - began < 3000, `${JSON.stringify(piece)} took ${performance.now() - began} ms`);
  }
});

test("a book is not parsed", () => assert.equal(parse("a".repeat(200_000)), null));
