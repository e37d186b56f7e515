// Text on the page: as it is, as Markdown, or as JSON. Every piece of it becomes a text node.

import { h, button, nodes } from "../lib/dom.js";
import { parse } from "../lib/markdown.js";

/** Give a text as it is, with its lines. */
export function plain(text) {
  return h("div.text.plain", { dir: "auto" }, nodes(text));
}

/** Give a text as Markdown. */
export function rich(text) {
  const tree = parse(text);
  if (!tree) return plain(text);
  return h("div.text.rich", { dir: "auto" }, tree.map(block));
}

function block(node) {
  switch (node.kind) {
    case "heading": return h(`p.heading.level-${node.level}`, {}, node.inline.map(inline));
    case "rule": return h("hr");
    case "quote": return h("blockquote", {}, node.blocks.map(block));
    case "code": return code(node.text, node.language);
    case "list": return h(node.ordered ? "ol" : "ul", node.ordered ? { start: node.start } : {}, node.items.map((item) => h("li", {}, item.map(block))));
    case "table": return table(node);
    default: return h("p", {}, node.inline.map(inline));
  }
}

function inline(node) {
  if (typeof node === "string") return nodes(node);
  switch (node.kind) {
    case "strong": return h("strong", {}, node.inline.map(inline));
    case "emphasis": return h("em", {}, node.inline.map(inline));
    case "gone": return h("s", {}, node.inline.map(inline));
    case "code": return h("code", {}, nodes(node.text));
    case "link": return link(node);
    default: return "";
  }
}

function link({ text, address, safe, image }) {
  const words = image ? `image: ${text}` : text;
  if (safe) return h("a", { href: address, rel: "noopener noreferrer nofollow", target: "_blank", title: address }, nodes(words));
  return h("span.unfollowed", {}, nodes(words), " (", h("code", {}, nodes(address)), ")");
}

function table({ head, body }) {
  const row = (cells, tag) => h("tr", {}, cells.map((cell) => h(tag, {}, cell.map(inline))));
  return h("div.scroll", { tabindex: "0", role: "group", "aria-label": "table" },
    h("table", {}, h("thead", {}, row(head, "th")), h("tbody", {}, body.map((cells) => row(cells, "td")))));
}

/** Give a block of code; JSON is laid out. */
export function code(text, language = "") {
  return h("pre.code", { tabindex: "0", data: { language }, dir: "ltr" }, nodes(language === "json" ? pretty(text) : text));
}

/** Lay JSON out; any other text as it is. */
export function pretty(text) {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Give a text in the form that suits it: JSON laid out, else Markdown; `raw` as it came. */
export function suited(text, raw = false) {
  if (raw) return plain(text);
  const laid = pretty(text);
  return laid === text && !isJson(text) ? rich(text) : code(laid, "json");
}

function isJson(text) {
  if (!/^\s*[[{]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Give a long text that shows its begin, and the rest when it is asked for. */
export function folded(text, show, most = 4000) {
  if (text.length <= most) return show(text);
  const place = h("div.folded", {}, show(text.slice(0, most)));
  const more = button(`Show all ${text.length.toLocaleString("en-GB")} characters`, () => place.replaceWith(show(text)));
  place.append(more);
  return place;
}
