// A call as a conversation: its turns, the tools, and the answer.

import { h, button } from "../lib/dom.js";
import { answersById, roleClass, tools, turns } from "../lib/conversation.js";
import * as format from "../lib/format.js";
import { code, folded, plain, pretty, suited } from "./richtext.js";
import { isStandIn, standIn } from "./parts.js";
import { sessionLines } from "./session.js";

const ONE_MILLION = 1_000_000;
const AT_ONCE = 200;

/** Show the request's side. `raw`: texts as they came. */
export function conversation(call, raw) {
  const { request } = call;
  if (request.empty) return call.session ? [] : [h("p.quiet-text", {}, "The request has no body.")];
  if (!request.body) return [h("p.problem", {}, `This is no prompt in JSON: ${request.problem}.`), plain(request.raw)];
  const all = turns(call.operation, request.body);
  const answers = answersById(all);
  // The first message whose tokens are counted is the list's first: instructions are not in the list.
  const shown = all.slice(-AT_ONCE).map((turn) => message(call, turn, { raw, all, answers }));
  const hidden = all.length - shown.length;
  if (!all.length) return [h("article.message.role-user", { "aria-label": "request" }, h("header", {}, h("span.role", {}, call.operation)), code(JSON.stringify(request.body, null, 2), "json"))];
  return [hidden > 0 ? h("p.quiet-text", {}, `${format.plural(hidden, "earlier message")} not shown.`) : null, toolList(request.body), ...shown];
}

function message(call, turn, { raw, all, answers }) {
  const tokens = turn.index == null ? (all.length === 1 ? call.messages[0] : null) : call.messages[turn.index];
  return h("article.message", { class: roleClass(turn.role), "aria-label": turn.role },
    h("header", {}, h("span.role", {}, turn.role), turn.name ? h("span.name", {}, turn.name) : null,
      turn.answers ? h("span.name", {}, `answers ${turn.answers}`) : null, figures(call, tokens)),
    turn.texts.length || turn.calls.length ? turn.texts.map((text) => content(text, call.id, raw)) : h("p.quiet-text", {}, "It is empty."),
    turn.calls.map((each) => toolCall(each, answers.has(each.id))));
}

function figures(call, tokens) {
  if (!tokens) return null;
  const words = `${tokens.exact ? "" : "about "}${format.plural(tokens.tokens, "token")}`;
  const price = call.price ? ` · ${format.cost((tokens.tokens * call.price.input) / ONE_MILLION)}` : "";
  return h("span.figures", {}, words + price);
}

function content(value, callId, raw) {
  if (typeof value === "string") return folded(value, (text) => suited(text, raw));
  if (isStandIn(value)) return standIn(value, callId);
  if (value?.type === "thinking" && "text" in value) return thinking(value, raw);
  if (value?.type === "image" && typeof value.address === "string") {
    // Nothing is fetched from elsewhere.
    return h("div.stand-in", {}, h("span.words", {}, "image at "), h("code", {}, value.address));
  }
  return code(JSON.stringify(value, null, 2), "json");
}

/** Show what a model thought before it said something, so that it is not taken for what it said. */
function thinking({ text, redacted }, raw) {
  if (!text) return h("p.quiet-text", {}, redacted ? "redacted thinking, which Anthropic keeps encrypted" : "thinking, without its text");
  return h("details.reasoning", { open: text.length < 600 }, h("summary", {}, "thinking"), suited(text, raw));
}

function toolCall(call, answered) {
  return h("div.tool-call", {},
    h("p.tool-name", {}, `calls ${call.name}`, call.id ? h("span.name", {}, `${call.id}${answered ? "" : " (no result in this request)"}`) : null),
    code(pretty(typeof call.arguments === "string" ? call.arguments : JSON.stringify(call.arguments)), "json"));
}

function toolList(body) {
  const found = tools(body);
  if (!found.length) return null;
  return h("details.tools", {}, h("summary", {}, format.plural(found.length, "tool"), ": ", format.names(found.map((tool) => tool.name))),
    found.map((tool) => h("div.tool", {}, h("p.tool-name", {}, tool.name), tool.description ? plain(tool.description) : null,
      tool.parameters ? code(JSON.stringify(tool.parameters, null, 2), "json") : null)));
}

/** Show the answer's side. */
export function answer(call, raw) {
  const { answer: found } = call;
  if (call.session) return sessionLines(call.session, raw);
  if (!found) return [h("p.quiet-text", {}, call.kept ? "There is no answer yet." : "The answer was streamed and not kept.")];
  const lines = [];
  if (found.error) lines.push(h("p.problem", {}, found.error));
  if (found.problem) lines.push(h("p.problem", {}, `The answer is no JSON: ${found.problem}.`));
  if (found.broken) lines.push(h("p.problem", {}, "The answer ended without its proper end: what is here may not be all of it."));
  for (const verdict of found.prompt_verdicts ?? []) lines.push(verdictLine("the prompt", verdict));
  const choices = found.choices.map((choice, number) => choiceBlock(call, choice, number, found.choices.length, raw));
  if (found.text) choices.push(h("article.message.role-assistant", { "aria-label": "answer" }, h("header", {}, h("span.role", {}, "answer")), plain(found.text)));
  if (found.media?.length) choices.push(found.media.map((each) => standIn(each, call.id, "answer")));
  return [lines, choices, found.notes?.length ? h("ul.notes", {}, found.notes.map((each) => h("li", {}, each))) : null, rawAnswer(found)];
}

function choiceBlock(call, choice, number, of, raw) {
  const usage = call.answer.usage;
  return h("article.message.role-assistant", { "aria-label": "answer" },
    h("header", {}, h("span.role", {}, of > 1 ? `answer ${number + 1} of ${of}` : "answer"),
      choice.finish ? h("span.name", {}, choice.finish) : null,
      usage && of === 1 ? h("span.figures", {}, answerFigures(usage, call.price)) : null),
    choice.verdicts.map((verdict) => verdictLine("the answer", verdict)),
    choice.parts.length ? choice.parts.map((part) => partBlock(part, raw)) : h("p.quiet-text", {}, "The answer is empty."));
}

function partBlock(part, raw) {
  if (part.kind === "text") return folded(part.text, (text) => suited(text, raw), 20_000);
  const body = part.kind === "json" ? code(pretty(part.text), "json") : part.text ? suited(part.text, raw) : null;
  if (/^(reasoning|thinking)/.test(part.title)) return h("details.reasoning", { open: part.text.length < 600 }, h("summary", {}, part.title), body);
  return h("div.tool-call", {}, h("p.tool-name", {}, part.title), body);
}

function answerFigures(usage, price) {
  const reasoning = usage.reasoning_tokens ? ` (${format.count(usage.reasoning_tokens)} reasoning)` : "";
  const paid = price ? ` · ${format.cost((usage.output_tokens * price.output) / ONE_MILLION)}` : "";
  return `${format.plural(usage.output_tokens, "token")}${reasoning}${paid}`;
}

function verdictLine(whose, verdict) {
  return h(verdict.filtered ? "p.problem" : "p.quiet-text", {}, `Content filter on ${whose}: ${verdict.text}${verdict.filtered ? " (withheld)" : ""}.`);
}

function rawAnswer(found) {
  if (!found.raw) return null;
  const place = h("details.raw", {}, h("summary", {}, `As it came, ${format.bytes(found.raw_length)}`));
  place.addEventListener("toggle", () => {
    if (place.open && !place.querySelector("pre")) place.append(code(pretty(found.raw)));
  });
  return place;
}

/** Give a button that switches between rendered and raw. */
export function rawSwitch(raw, onchange) {
  return button(raw ? "Rendered" : "Raw", () => onchange(!raw), { "aria-pressed": String(raw), title: "Markdown and JSON rendered, or texts as they came" });
}
