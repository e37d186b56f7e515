// What is expected of an answer, as a form: a kind and a value for each.

import { h, button, fill, select, textBox } from "../lib/dom.js";

const BY_NUMBER = /^max_/;
const AS_JSON = ["json_schema", "json_equals"];

function initial(kind, setup) {
  if (BY_NUMBER.test(kind)) return 1000;
  if (kind === "json_schema") return { type: "object" };
  if (kind === "json_equals") return {};
  if (kind === "judge") return { rubric: "", deployment: setup.deployments[0] ?? "" };
  return kind === "finish_reason" ? "stop" : "";
}

/** Draw a list of expectations, which is edited in place. */
export function expectationForm(place, expect, setup, changed = () => {}) {
  const draw = () => fill(place, expect.map((each, at) => line(expect, each, at, setup, changed, draw)),
    button("Add an expectation", () => { expect.push({ contains: "" }); draw(); changed(); place.querySelector(".expectation:last-of-type textarea")?.focus(); }, { data: { action: "add-expectation" } }));
  draw();
}

function line(expect, each, at, setup, changed, redraw) {
  const [kind] = Object.keys(each);
  const set = (value) => { expect[at] = { [kind]: value }; changed(); };
  return h("div.expectation", {},
    select(setup.expectations, kind, (next) => { expect[at] = { [next]: initial(next, setup) }; redraw(); changed(); }, { "aria-label": `Kind of expectation ${at + 1}` }),
    field(kind, each[kind], set, setup, at + 1),
    button("×", () => { expect.splice(at, 1); redraw(); changed(); }, { "aria-label": `Remove expectation ${at + 1}`, class: "quiet" }));
}

function field(kind, value, set, setup, number) {
  const label = `Value of expectation ${number}`;
  if (BY_NUMBER.test(kind)) return h("input", { type: "number", min: 0, value, "aria-label": label, oninput: (event) => set(Number(event.target.value)) });
  if (kind === "judge") {
    return h("div.judge", {}, textBox(value.rubric ?? "", (rubric) => { value.rubric = rubric; set(value); }, { "aria-label": `Rubric of expectation ${number}`, placeholder: "When is an answer good?", rows: 2 }),
      select([["", "the set's judge"], ...setup.deployments], value.deployment ?? "", (deployment) => { if (deployment) value.deployment = deployment; else delete value.deployment; set(value); }, { "aria-label": `Judge of expectation ${number}` }));
  }
  if (!AS_JSON.includes(kind)) return textBox(value, set, { "aria-label": label });
  const box = textBox(JSON.stringify(value, null, 2), (text) => {
    try {
      set(JSON.parse(text));
      box.setCustomValidity("");
    } catch {
      box.setCustomValidity("no JSON");
    }
  }, { "aria-label": label, class: "code" });
  return box;
}
