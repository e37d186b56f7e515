// The parameters and the tools of a draft, as forms.

import { h, button, fill, labelled, select, textBox } from "../lib/dom.js";
import { CONTENT, PARAMETERS, check, typed } from "../lib/parameters.js";
import { ROLES, addTool, copied } from "../lib/draft.js";
import { jsonBox, valueBox } from "./messages.js";

/** Draw the parameters; gives a function that says how many keep the draft from being sent. */
export function parameterForm(place, draft, modelOf, changed) {
  const known = PARAMETERS[draft.operation] ?? {};
  const draw = () => {
    const names = Object.keys(draft.body).filter((name) => !CONTENT.includes(name));
    const others = Object.keys(known).filter((name) => !names.includes(name));
    fill(place, names.map((name) => field(draft, name, known[name] ?? { kind: "json" }, modelOf, changed, draw)),
      others.length ? select([["", "Add a parameter…"], ...others], "", (name) => { draft.body[name] = initial(known[name]); draw(); changed(); place.querySelector(`[data-parameter="${name}"] :is(input,select,textarea)`)?.focus(); }, { "aria-label": "Add a parameter" }) : null);
  };
  draw();
  return () => place.querySelectorAll("[data-problem]").length;
}

function initial(rule) {
  if (rule.kind === "flag") return true;
  if (rule.kind === "one") return rule.values[0];
  if (rule.kind === "json") return copied(rule.begin ?? {});
  if (rule.kind === "text") return "";
  return rule.least ?? 0;
}

function field(draft, name, rule, modelOf, changed, redraw) {
  const message = h("span.hint", { role: "status" });
  const row = h("div.parameter", { data: { parameter: name } });
  const judge = (value) => {
    const { problem, warning } = check(draft.operation, name, value, modelOf());
    message.textContent = problem ?? warning ?? "";
    message.classList.toggle("problem", Boolean(problem));
    if (problem) row.dataset.problem = problem;
    else delete row.dataset.problem;
  };
  const take = (value) => {
    judge(value);
    if (value !== undefined) draft.body[name] = value;
    changed();
  };
  fill(row, labelled(name, input(rule, draft.body[name], take), null), message,
    button("×", () => { delete draft.body[name]; redraw(); changed(); }, { "aria-label": `Remove ${name}`, class: "quiet" }));
  judge(draft.body[name]);
  return row;
}

function input(rule, value, take) {
  if (rule.kind === "flag") return select(["true", "false"], String(value), (text) => take(text === "true"));
  if (rule.kind === "one") return select(rule.values, value, take);
  if (rule.kind === "json") return textBox(JSON.stringify(value, null, 2), (text) => take(typed(rule, text)), { class: "code" });
  const numeric = rule.kind === "number" || rule.kind === "integer";
  return h("input", { type: "text", inputmode: numeric ? "decimal" : "text", value: value ?? "", oninput: (event) => take(typed(rule, event.target.value)) });
}

/** Draw the tools. */
export function toolForm(place, draft, changed) {
  const given = () => draft.body.tools ?? [];
  const draw = () => fill(place, Array.isArray(given())
    ? given().map((tool, at) => toolBox(draft, tool, at, changed, draw))
    : valueBox(given(), "Tools, as JSON", (read) => { draft.body.tools = read; changed(); }),
    ROLES[draft.operation] ? button("Add a tool", () => { addTool(draft); draw(); changed(); }, { data: { action: "add-tool" } }) : null);
  draw();
}

function toolBox(draft, tool, at, changed, redraw) {
  const own = tool?.function ?? tool ?? {};
  const drop = button("Remove", () => {
    draft.body.tools.splice(at, 1);
    if (!draft.body.tools.length) { delete draft.body.tools; delete draft.body.tool_choice; }
    redraw();
    changed();
  }, { "aria-label": `Remove tool ${at + 1}`, class: "quiet" });
  const isOdd = !tool || typeof own !== "object" || Array.isArray(own) || (tool.type ?? "custom") !== (draft.operation === "messages" ? "custom" : "function");
  if (isOdd) return h("fieldset.tool-box", {}, h("legend", {}, `tool ${at + 1}: ${tool?.type ?? ""}`), valueBox(tool, `Tool ${at + 1}`, (read) => { draft.body.tools[at] = read; changed(); }), drop);
  const member = draft.operation === "messages" ? "input_schema" : "parameters";
  // A function may have none, and is not to get some by being looked at.
  const schema = own[member] ?? { type: "object", properties: {} };
  return h("fieldset.tool-box", {}, h("legend", {}, `tool ${at + 1}`),
    labelled("name", h("input", { type: "text", value: own.name ?? "", pattern: "[A-Za-z0-9_\\-]{1,64}", oninput: (event) => { own.name = event.target.value; changed(); } })),
    labelled("description", textBox(own.description ?? "", (text) => { own.description = text; changed(); })),
    h("div.field", {}, h("span.label", {}, "parameters (JSON schema)"), jsonBox(schema, `Parameters of tool ${at + 1}`, () => { own[member] = schema; changed(); })), drop);
}
