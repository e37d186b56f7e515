// A session's messages: what was said as a conversation, and between it, in small, what else passed.

import { h, nodes } from "../lib/dom.js";
import { roleClass } from "../lib/conversation.js";
import * as format from "../lib/format.js";
import { code, pretty, suited } from "./richtext.js";

/** Show the lines of a session. `raw`: texts as they came. */
export function sessionLines(session, raw) {
  const earlier = session.hidden + session.gone;
  return [
    earlier ? h("p.quiet-text", {}, `${format.plural(earlier, "earlier message")} not shown.`) : null,
    session.lines.length ? session.lines.map((line) => (line.text || line.data ? said(line, raw) : passed(line))) : h("p.quiet-text", {}, "No message has passed yet."),
  ];
}

function said(line, raw) {
  const role = line.kind === "error" ? "error" : line.role || line.by;
  return h("article.message", { class: roleClass(role), "aria-label": role },
    h("header", {}, h("span.role", {}, role), h("span.name", {}, line.kind), h("span.figures", {}, figures(line))),
    line.kind === "error" ? h("p.problem", {}, line.text) : line.text ? suited(line.text, raw) : null,
    line.data ? h("p.quiet-text", {}, line.data) : null,
    line.more ? h("p.quiet-text", {}, `${format.plural(line.more, "more character")}.`) : null,
    line.kind === "error" ? asItCame(line) : null);
}

function passed(line) {
  return h("div.passed-by", {}, h("span.when", {}, format.duration(line.at_ms)), h("span", {}, line.by), h("code", {}, nodes(line.kind)), line.raw ? asItCame(line) : null);
}

function figures(line) {
  return `${line.count > 1 ? `${format.plural(line.count, "piece")} from ` : ""}${format.duration(line.at_ms)}`;
}

function asItCame(line) {
  const place = h("details", {}, h("summary", {}, "as it came"));
  place.addEventListener("toggle", () => {
    if (place.open && !place.querySelector("pre")) place.append(code(pretty(line.raw), "json"));
  });
  return place;
}
