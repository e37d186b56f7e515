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
    session.lines.length ? groups(session.lines).map((lines) => (speaks(lines[0]) ? said(lines[0], raw) : events(lines))) : h("p.quiet-text", {}, "No message has passed yet."),
  ];
}

const speaks = (line) => Boolean(line.text || line.data);

/** Put together what passed between two things that were said. */
function groups(lines) {
  const found = [];
  for (const line of lines) {
    const last = found.at(-1);
    if (last && !speaks(line) && !speaks(last[0])) last.push(line);
    else found.push([line]);
  }
  return found;
}

function events(lines) {
  if (lines.length < 3) return lines.map(passed);
  const kinds = [...new Set(lines.map((line) => line.kind))].join(", ");
  return h("details.events", {}, h("summary.quiet-text", {}, `${format.plural(lines.length, "event")} from ${format.duration(lines[0].at_ms)}: `, nodes(kinds.slice(0, 200))), lines.map(passed));
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
