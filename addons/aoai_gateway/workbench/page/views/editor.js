// Edit a prompt, and run it in several places at once.

import { h, button, fill, labelled, note, select, textBox } from "../lib/dom.js";
import { get, send } from "../lib/api.js";
import { copied, emptyBody } from "../lib/draft.js";
import { groups } from "../lib/places.js";
import { names } from "../lib/variables.js";
import { messageBoxes } from "./messages.js";
import { parameterForm, toolForm } from "./parameters.js";
import { heldBar } from "./held.js";
import { placeBoxes } from "./places.js";
import { showRun } from "./runs.js";

const drafts = new Map();
const NAME = "workbench-name";

/** Give the name by which this user's runs are marked. */
export const userName = () => localStorage.getItem(NAME) ?? "";

/** Show the editor of a call, or of a new prompt where `id` is null. */
export async function showEditor(place, id, setup) {
  fill(place, h("p.quiet-text", {}, "Reading the call…"));
  try {
    const key = id ?? "new";
    if (!drafts.has(key)) drafts.set(key, id ? await draftOf(id, setup) : newDraft(setup));
    draw(place, drafts.get(key), setup, key);
  } catch (error) {
    fill(place, h("p.problem", {}, error.message));
  }
}

/** Begin with a prompt that comes from elsewhere: a case. */
export function openDraft(key, draft) {
  drafts.set(key, draft);
}

async function draftOf(id, setup) {
  const call = await get(`/calls/${id}`);
  if (!call.can_be_run) throw new Error("This kind of call is here to be read: it has no prompt that could be edited.");
  if (call.request.empty) throw new Error("The request has no body that could be edited.");
  if (!call.request.body) throw new Error(`Its body is no JSON, and cannot be edited here: ${call.request.problem}.`);
  const { row } = call;
  const where = row.only || row.asked || row.deployment;
  return {
    operation: call.operation, body: copied(call.request.body), origin: id, held: row.state === "held",
    client: setup.clients.includes(row.client) ? row.client : setup.clients[0] ?? "",
    places: setup.places.includes(where) ? [where] : setup.places.slice(0, 1), count: 1, variables: {}, run: null, expect: [],
    original: row.state === "done" ? { id, call, title: "the call as it was" } : null,
  };
}

function newDraft(setup, operation = "chat.completions") {
  const places = groups(setup, [operation])[0]?.places.slice(0, 1) ?? [];
  return { operation, body: emptyBody(operation, places[0]?.split("@")[0] ?? ""), origin: null, held: false, client: setup.clients[0] ?? "", places, count: 1, variables: {}, run: null, expect: [] };
}

function draw(place, draft, setup, key) {
  const boxes = h("div.boxes");
  const parameters = h("div.parameters");
  const tools = h("div");
  const variables = h("div.variables");
  const results = h("section.results", { "aria-label": "Results" });
  const again = () => draw(place, draft, setup, key);
  const modelOf = () => setup.models[draft.places[0]] ?? draft.places[0]?.split("@")[0];
  const changed = () => variableForm(variables, draft);
  const problems = parameterForm(parameters, draft, modelOf, changed);
  messageBoxes(boxes, draft, changed);
  toolForm(tools, draft, changed);
  changed();
  const run = () => start(place, draft, results, problems, setup);
  fill(place,
    h("header.call-head", {}, h("h2", {}, draft.held ? "A held call" : draft.origin ? "Edit and run" : "New prompt"),
      h("div.buttons", {}, draft.origin ? button("Back to the call", () => { location.hash = `#/call/${draft.origin}`; }) : null,
        button("Start again", () => { drafts.delete(key); showEditor(place, draft.origin, setup); }))),
    draft.held ? heldBar(draft.origin, () => send("PUT", `/calls/${draft.origin}`, { body: draft.body })) : null,
    draft.origin ? null : labelled("operation", select(setup.operations, draft.operation, (operation) => { drafts.set(key, newDraft(setup, operation)); draw(place, drafts.get(key), setup, key); })),
    h("div.editor", {},
      h("div.editor-main", {}, boxes, variables),
      h("aside.editor-side", { "aria-label": "Parameters and tools" }, h("h3", {}, "Parameters"), parameters, h("h3", {}, "Tools"), tools)),
    runBar(draft, setup, run, again), results);
  place.onkeydown = (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") { event.preventDefault(); run(); }
  };
  if (draft.run) showRun(results, draft.run, draft, setup);
}

function variableForm(place, draft) {
  const found = names(draft.body);
  const shown = [...place.querySelectorAll("textarea")].map((box) => box.dataset.variable);
  if (found.join() === shown.join()) return;
  fill(place, found.length ? h("h3", {}, "Variables") : null,
    found.map((name) => labelled(`{{${name}}}`, textBox(draft.variables[name] ?? "", (text) => { draft.variables[name] = text; }, { data: { variable: name } }))));
}

function runBar(draft, setup, run, again) {
  return h("section.run-bar", { "aria-label": "Run" },
    placeBoxes(setup, [draft.operation], draft.places, (places) => { draft.places = places; }),
    h("div.run-options", {},
      labelled("times each", h("input", { type: "number", min: 1, max: 32, value: draft.count, oninput: (event) => { draft.count = Number(event.target.value) || 1; } })),
      labelled("as client", select(setup.clients, draft.client, (client) => { draft.client = client; }), "its quotas and rules apply"),
      labelled("your name", h("input", { type: "text", value: userName(), maxlength: 64, placeholder: "for the records", oninput: (event) => localStorage.setItem(NAME, event.target.value) })),
      button("Run", run, { class: "primary", title: "Run (Ctrl+Enter)", data: { action: "run" } })));
}

function used(draft) {
  return Object.fromEntries(names(draft.body).filter((name) => draft.variables[name] !== undefined).map((name) => [name, draft.variables[name]]));
}

async function start(place, draft, results, problems, setup) {
  if (problems() || place.querySelector("textarea:invalid")) {
    note("Something is not valid yet: see the marked fields.", "problem");
    (place.querySelector("[data-problem] :is(input,textarea,select)") ?? place.querySelector("textarea:invalid"))?.focus();
    return;
  }
  // What is sent now is what answers belong to, however the draft is edited while they come.
  const sent = copied({ operation: draft.operation, body: draft.body, variables: used(draft) });
  const asked = { call: draft.origin, ...sent, client: draft.client, by: userName(), places: draft.places, count: draft.count };
  try {
    draft.run = { ...await send("POST", "/runs", asked), sent };
    showRun(results, draft.run, draft, setup);
    results.scrollIntoView({ block: "start" });
  } catch (error) {
    note(error.message, "problem");
  }
}
