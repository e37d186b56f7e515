// One call: what became of it, its conversation, its answer, and how it came to that.

import { h, button, copy, fill, nodes, note } from "../lib/dom.js";
import { get } from "../lib/api.js";
import * as format from "../lib/format.js";
import { answer, conversation, rawSwitch } from "./conversation.js";
import { CONTENT } from "../lib/parameters.js";
import { heldBar } from "./held.js";
import { timeline } from "./timeline.js";
import { code, pretty } from "./richtext.js";

export const LANGUAGES = [["python", "Python"], ["js", "JavaScript"], ["curl", "curl"]];

let raw = false;

/** Show a call in a place; gives a function that looks at it again. */
export function showCall(place, id) {
  let call = null;
  const draw = () => fill(place, call ? page(call, draw) : h("p.quiet-text", {}, "Reading the call…"));
  const look = async () => {
    try {
      call = await get(`/calls/${id}`);
      draw();
    } catch (error) {
      fill(place, h("p.problem", {}, error.message));
    }
  };
  draw();
  look();
  return look;
}

function page(call, redraw) {
  const { row } = call;
  return [
    h("header.call-head", {},
      h("h2", {}, row.prompt || row.operation),
      h("div.buttons", {},
        call.can_be_run ? button("Edit and run", () => { location.hash = `#/call/${call.id}/edit`; }, { class: "primary", title: "Edit and run (e)", data: { action: "edit" } }) : null,
        rawSwitch(raw, (value) => { raw = value; redraw(); }),
        call.can_be_run ? copyButtons(call.id) : null),
      facts(call)),
    row.state === "held" ? heldBar(call.id) : null,
    call.comment && row.state === "held" ? h("p.problem", {}, call.comment) : null,
    timeline(call),
    h("div.conversation", {}, conversation(call, raw), answer(call, raw)),
    attempts(call), story(call), details(call),
  ];
}

/** Give buttons that copy a call as code. */
export function copyButtons(id) {
  return LANGUAGES.map(([language, label]) => button(`Copy ${label}`, async () => {
    try {
      await copy((await get(`/calls/${id}/code?language=${language}`)).code, `The call as ${label}`);
    } catch (error) {
      note(error.message, "problem");
    }
  }, { data: { copy: language } }));
}

/** Give what became of a call as a list of facts. */
export function facts(call) {
  const { row } = call;
  const usage = call.answer?.usage;
  const cached = usage?.cached_tokens ? ` (${format.count(usage.cached_tokens)} cached)` : "";
  const list = [
    ["outcome", outcome(row)],
    ["client", row.client],
    ["deployment", row.asked ? `${row.asked} → ${row.deployment}` : row.deployment],
    ["backend", row.backend],
    ["model", call.answer?.model],
    ["tokens", row.tokens_in == null ? null : `${format.count(row.tokens_in)} in${cached}, ${format.count(row.tokens_out)} out`],
    ["cost", row.cost == null ? null : format.cost(row.cost)],
    ["first token", row.first_ms == null ? null : format.duration(row.first_ms)],
    ["total", row.duration_ms == null ? null : format.duration(row.duration_ms)],
    ["waited", row.waited_ms ? format.duration(row.waited_ms) : null],
    ["degraded", row.degraded], ["clamped", row.clamped],
    ["from", row.by ? `the workbench, by ${row.by}` : null],
    ["at", format.clock(row.at)],
  ];
  return h("dl.facts", {}, list.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, nodes(String(value))))));
}

/** Say in few words how a call ended. */
export function outcome(row) {
  if (row.state === "held") return "held";
  if (row.state === "running") return "running";
  const status = row.status ?? "no answer";
  return row.error ? `${status} ${row.error}` : String(status);
}

function attempts(call) {
  if (!call.attempts.length) return null;
  return h("section.panel", { "aria-label": "Failed attempts" }, h("h3", {}, format.plural(call.attempts.length, "failed attempt")),
    call.attempts.map((attempt) => h("details.attempt", { data: { attempt: String(attempt.number) } },
      h("summary", {}, h("span.mark.failed", {}, String(attempt.status ?? "–")), ` ${attempt.backend}: ${attempt.reason}`),
      attempt.comment ? h("p", {}, attempt.comment) : null,
      attempt.answer ? code(pretty(attempt.answer)) : null,
      headerTable(attempt.headers))));
}

function story(call) {
  if (!call.story.length) return null;
  return h("section.panel", { "aria-label": "Story" }, h("h3", {}, "What was decided"),
    h("ol.story", {}, call.story.map((line) => {
      const found = /^\s*([\d.,]+ ?m?s)?\s{2}(.*)$/s.exec(line);
      return h("li", {}, h("span.when", {}, found?.[1] ?? ""), h("span", {}, nodes(found ? found[2] : line)));
    })));
}

function details(call) {
  const noted = Object.entries(call.noted);
  return h("details.panel", {}, h("summary", {}, "Headers and parameters"),
    call.request.body ? code(JSON.stringify(parametersOf(call.request.body), null, 2), "json") : null,
    noted.length ? h("dl.facts", {}, noted.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, nodes(value))))) : null,
    h("h4", {}, `${call.method} `, h("code", {}, nodes(call.path))), headerTable(call.headers),
    h("h4", {}, "Answer"), headerTable(call.answer_headers));
}

function parametersOf(body) {
  return Object.fromEntries(Object.entries(body).filter(([name]) => !CONTENT.includes(name) || name === "model"));
}

function headerTable(headers) {
  if (!headers.length) return null;
  return h("div.scroll", { tabindex: "0", role: "group", "aria-label": "headers" }, h("table.headers", {}, h("tbody", {},
    headers.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, nodes(value)))))));
}
