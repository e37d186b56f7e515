// The messages of a draft, each in boxes with real line breaks.

import { h, button, fill, select, textBox } from "../lib/dom.js";
import { SYSTEM, roleClass } from "../lib/conversation.js";
import { ROLES, add, duplicate, listKey, messages, move, remove, setRole } from "../lib/draft.js";
import { hiddenIn } from "../lib/text.js";
import { isStandIn, standIn } from "./parts.js";

const AT_ONCE = 100;

/** Draw the boxes of a draft into a place. `changed` is called after each edit, `redraw` after a structural one. */
export function messageBoxes(place, draft, changed) {
  const redraw = (focus) => {
    draw();
    changed();
    if (focus != null) place.querySelector(`[data-message="${focus}"]`)?.querySelector("textarea, select")?.focus();
  };
  const draw = () => fill(place, instructions(draft, changed), boxes(draft, changed, redraw));
  draw();
}

function instructions(draft, changed) {
  const member = SYSTEM[draft.operation];
  if (!member) return null;
  return h("fieldset.message-box.role-system", {}, h("legend", {}, member),
    textOrStandIn(draft.body[member] ?? "", draft, member[0].toUpperCase() + member.slice(1), (text) => {
      if (text) draft.body[member] = text;
      else delete draft.body[member];
      changed();
    }));
}

function boxes(draft, changed, redraw) {
  const list = messages(draft);
  const key = listKey(draft.operation);
  if (!list) {
    return [h("fieldset.message-box.role-user", {}, h("legend", {}, key), textOrStandIn(draft.body[key] ?? "", draft, key, (text) => { draft.body[key] = text; changed(); })),
      ROLES[draft.operation] ? button("Add a message", () => { add(draft, Infinity); redraw(messages(draft).length - 1); }) : null];
  }
  // Boxes of thousands of messages would keep a browser busy for minutes; what is edited is mostly at the end.
  draft.first = Math.min(draft.first ?? Infinity, Math.max(0, list.length - AT_ONCE));
  const earlier = draft.first ? button(`Show earlier messages (${draft.first.toLocaleString("en-GB")})`, () => { draft.first = Math.max(0, draft.first - AT_ONCE); redraw(); }, { data: { action: "show-earlier" } }) : null;
  return [earlier, list.slice(draft.first).map((message, at) => box(draft, list, message, draft.first + at, changed, redraw)),
    button("Add a message", () => { add(draft, list.length); redraw(list.length - 1); }, { data: { action: "add-message" } })];
}

function box(draft, list, message, at, changed, redraw) {
  const of = `message ${at + 1}`;
  const isObject = isRecord(message);
  const role = isObject ? message.role : null;
  const roles = ROLES[draft.operation] ?? [];
  return h("fieldset.message-box", { class: roleClass(role), data: { message: String(at) } },
    h("legend", {}, of),
    h("div.message-tools", {},
      role && !isStandIn(message) ? select(roles.includes(role) ? roles : [...roles, role], role, (value) => { setRole(message, value); redraw(at); }, { "aria-label": `Role of ${of}` }) : h("span.role", {}, message?.type ?? ""),
      button("↑", () => { redraw(move(draft, at, -1)); }, { "aria-label": `Move ${of} up`, disabled: at === 0 }),
      button("↓", () => { redraw(move(draft, at, 1)); }, { "aria-label": `Move ${of} down`, disabled: at === list.length - 1 }),
      button("+", () => { add(draft, at + 1); redraw(at + 1); }, { "aria-label": `Add a message after ${of}`, title: "Add a message" }),
      button("", () => { duplicate(draft, at); redraw(at + 1); }, { "aria-label": `Duplicate ${of}`, title: "Duplicate", class: "duplicate" }),
      button("×", () => { remove(draft, at); redraw(Math.max(0, at - 1)); }, { "aria-label": `Remove ${of}` })),
    !isObject || isStandIn(message)
      ? textOrStandIn(message, draft, `Text of ${of}`, (value) => { list[at] = value; changed(); })
      : fields(draft, message, of, changed, redraw));
}

function fields(draft, message, of, changed, redraw) {
  const found = [];
  if (message.role === "tool" || "tool_call_id" in message) found.push(line("answers call", message.tool_call_id ?? "", (text) => { message.tool_call_id = text; changed(); }));
  if ("role" in message) found.push(...contents(draft, message, of, changed, redraw));
  for (const call of listOf(message.tool_calls).filter(isRecord)) {
    const own = [call.function, call.custom].find(isRecord);
    found.push(own ? toolCall(own, call, of, changed, own === call.custom ? "input" : "arguments") : jsonBox(call, `JSON of a call in ${of}`, changed));
  }
  if (message.type === "function_call" || message.type === "custom_tool_call") found.push(...toolCall(message, { id: message.call_id }, of, changed, "arguments" in message ? "arguments" : "input"));
  if (/_call_output$/.test(message.type ?? "") && typeof message.output === "string") found.push(textOrStandIn(message.output, draft, `Output of ${of}`, (text) => { message.output = text; changed(); }));
  if (!found.length) found.push(jsonBox(message, `JSON of ${of}`, changed));
  return found;
}

const isRecord = (value) => Boolean(value) && typeof value === "object" && !Array.isArray(value);
const listOf = (value) => (Array.isArray(value) ? value : []);

function contents(draft, message, of, changed, redraw) {
  const { content } = message;
  if (!Array.isArray(content)) {
    if (content == null && listOf(message.tool_calls).length) return [];
    return [textOrStandIn(content ?? "", draft, `Text of ${of}`, (value) => { message.content = value; changed(); })];
  }
  return content.map((part, place) => {
    const drop = button("×", () => { content.splice(place, 1); redraw(); }, { "aria-label": `Remove part ${place + 1} of ${of}`, class: "quiet" });
    if (!isRecord(part)) return h("div.part", {}, textOrStandIn(part, draft, `Part ${place + 1} of ${of}`, (value) => { content[place] = value; changed(); }), drop);
    if ("text" in part) return h("div.part", {}, textOrStandIn(part.text, draft, `Text ${place + 1} of ${of}`, (value) => { part.text = value; changed(); }), drop);
    const kept = [part, part?.image_url?.url, part?.image_url, part?.input_audio?.data, part?.file?.file_data, part?.file_data, part?.source?.data].find(isStandIn);
    return h("div.part", {}, kept ? standIn(kept, draft.origin) : jsonBox(part, `Part ${place + 1} of ${of}`, changed), drop);
  });
}

function toolCall(own, call, of, changed, member) {
  return [line("calls", own.name ?? "", (text) => { own.name = text; changed(); }),
    h("p.quiet-text", {}, `call id ${call.id ?? ""}`),
    textBox(typeof own[member] === "string" ? own[member] : "", (text) => { own[member] = text; changed(); }, { "aria-label": `Arguments of the call in ${of}`, class: "code" })];
}

function line(label, value, oninput) {
  return h("label.inline-field", {}, h("span", {}, label), h("input", { type: "text", value, oninput: (event) => oninput(event.target.value) }));
}

function textOrStandIn(value, draft, label, oninput) {
  if (isStandIn(value)) return standIn(value, draft.origin);
  if (isRecord(value) || Array.isArray(value)) return jsonBox(value, label, () => oninput(value));
  if (typeof value !== "string") return valueBox(value, label, oninput);
  const hidden = h("p.hint");
  const tell = (text) => {
    const count = hiddenIn(text);
    hidden.textContent = count ? `${count} character${count > 1 ? "s" : ""} in it cannot be seen here` : "";
  };
  tell(value);
  return h("div.text-field", {}, textBox(value, (text) => { tell(text); oninput(text); }, { "aria-label": label, rows: 2 }), hidden);
}

/** Give a box for an object or a list that has no boxes of its own; it is changed when the text is JSON. */
export function jsonBox(value, label, changed) {
  return valueBox(value, label, (read) => {
    if (!read || typeof read !== "object" || Array.isArray(read) !== Array.isArray(value)) throw new Error("it must stay what it was");
    if (Array.isArray(value)) value.splice(0, value.length, ...read);
    else {
      for (const key of Object.keys(value)) delete value[key];
      Object.assign(value, read);
    }
    changed();
  });
}

/** Give a box for any value; `take` gets another one when the text is JSON, and may refuse it. */
export function valueBox(value, label, take) {
  const problem = h("p.problem", { role: "alert" });
  const box = textBox(JSON.stringify(value, null, 2), (text) => {
    try {
      take(JSON.parse(text));
      problem.textContent = "";
      box.setCustomValidity("");
    } catch (error) {
      problem.textContent = `No JSON: ${error.message}`;
      box.setCustomValidity("no JSON");
    }
  }, { "aria-label": label, class: "code" });
  return h("div.json-box", {}, box, problem);
}
