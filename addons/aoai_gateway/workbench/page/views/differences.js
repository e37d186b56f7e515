// How two JSON values differ: a line for each place, and the words that differ where both have a text there.

import { h, nodes } from "../lib/dom.js";
import { words } from "../lib/diff.js";

/** Give a text with what was taken out and put in marked. */
export function wordLine(before, after) {
  return words(before, after).map(({ kind, text }) => (kind === "same" ? nodes(text) : h(kind === "gone" ? "del" : "ins", {}, nodes(text))));
}

/** Give a list of what `structure` has found. */
export function changeLines(found) {
  return h("ul.structure", {}, found.map((each) => h("li", {}, h("code", {}, each.path), " ", line(each))));
}

function line(each) {
  if (typeof each.before === "string" && typeof each.after === "string") return h("span.plain", { dir: "auto" }, wordLine(each.before, each.after));
  return ["before" in each ? h("del", {}, nodes(JSON.stringify(each.before) ?? "")) : null, " ", "after" in each ? h("ins", {}, nodes(JSON.stringify(each.after) ?? "")) : null];
}
