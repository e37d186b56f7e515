// Edit a prompt, and run it in several places at once.

import { h, button, fill, labelled, note, select, textBox } from "../lib/dom.js";
import { get, send } from "../lib/api.js";
import { structure } from "../lib/diff.js";
import { copied, emptyBody, isLarger } from "../lib/draft.js";
import * as format from "../lib/format.js";
import * as store from "../lib/kept.js";
import { groups } from "../lib/places.js";
import { ofBrowser } from "../lib/storage.js";
import { names } from "../lib/variables.js";
import { messageBoxes } from "./messages.js";
import { parameterForm, toolForm } from "./parameters.js";
import { heldBar } from "./held.js";
import { changeLines } from "./differences.js";
import { placeBoxes } from "./places.js";
import { showRun } from "./runs.js";

const drafts = new Map();
const COUNT_MS = 400;
const MOST_COUNTED = 6;
const LARGEST_COUNTED = 256 * 1024; // as the gateway has it, of bytes
const NAME = "workbench-name";

/** Give the name by which this user's runs are marked. */
export const userName = () => name ??= ofBrowser.read(NAME) ?? "";

let name = null; // of this page, where the browser keeps nothing

function setName(given) {
  name = given;
  ofBrowser.write(NAME, given);
}

/** Show the editor of a call, or of a new prompt where `id` is null. */
export async function showEditor(place, id, setup) {
  fill(place, h("p.quiet-text", {}, "Reading the call…"));
  try {
    const key = id ?? "new";
    if (!drafts.has(key)) drafts.set(key, { ...(id ? await draftOf(id, setup) : newDraft(setup)), ...store.kept(key, setup) });
    draw(place, drafts.get(key), setup, key);
  } catch (error) {
    fill(place, h("p.problem", {}, error.message));
  }
}

function forget(key) {
  drafts.delete(key);
  store.forget(key);
}

/** Begin with a prompt that was chosen: a case, or a kind of call. */
export function openDraft(key, draft) {
  forget(key);
  drafts.set(key, draft);
  store.keep(key, draft);
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
  const modelOf = () => setup.models[draft.places[0]] ?? draft.places[0]?.split("@")[0];
  const takes = countLine(draft);
  const changes = changeList(draft);
  const follow = () => {
    variableForm(variables, draft, changed);
    takes.later();
    changes.later();
  };
  const changed = () => {
    follow();
    store.keep(key, draft);
  };
  const problems = parameterForm(parameters, draft, modelOf, changed);
  messageBoxes(boxes, draft, changed);
  toolForm(tools, draft, changed);
  follow();
  const run = () => start(place, draft, results, problems, setup);
  fill(place,
    h("header.call-head", {}, h("h2", {}, draft.held ? "A held call" : draft.origin ? "Edit and run" : "New prompt"),
      h("div.buttons", {}, draft.origin ? button("Back to the call", () => { location.hash = `#/call/${draft.origin}`; }) : null,
        button("Start again", () => { forget(key); showEditor(place, draft.origin, setup); }))),
    draft.held ? heldBar(draft.origin, () => send("PUT", `/calls/${draft.origin}`, { body: draft.body })) : null,
    draft.origin ? null : labelled("operation", select(setup.operations, draft.operation, (operation) => { openDraft(key, newDraft(setup, operation)); draw(place, drafts.get(key), setup, key); })),
    h("div.editor", {},
      h("div.editor-main", {}, boxes, variables, changes.place),
      h("aside.editor-side", { "aria-label": "Parameters and tools" }, h("h3", {}, "Parameters"), parameters, h("h3", {}, "Tools"), tools)),
    runBar(draft, setup, run, changed, takes.place), results);
  if (draft.run) showRun(results, draft.run, draft, setup);
}

function variableForm(place, draft, changed) {
  const found = names(draft.body);
  const shown = [...place.querySelectorAll("textarea")].map((box) => box.dataset.variable);
  if (found.join() === shown.join()) return;
  fill(place, found.length ? h("h3", {}, "Variables") : null,
    found.map((name) => labelled(`{{${name}}}`, textBox(draft.variables[name] ?? "", (text) => { draft.variables[name] = text; changed(); }, { data: { variable: name } }))));
}

/** Give a line that says what the prompt takes at each place, counted when its edits pause; nothing of a large one. */
function countLine(draft) {
  const place = h("p.quiet-text.takes", { role: "status" });
  let timer = null;
  let asking = new AbortController();
  const count = async () => {
    const { signal } = asking;
    const places = draft.places.slice(0, MOST_COUNTED);
    const variables = used(draft);
    try {
      const asked = { call: draft.origin, operation: draft.operation, body: draft.body, variables, client: draft.client, by: "", places };
      const none = !places.length || isLarger([draft.body, variables], LARGEST_COUNTED);
      const { counts } = none ? { counts: [] } : await send("POST", "/count", asked, signal);
      if (!signal.aborted) fill(place, counts.length ? takes(counts) : null);
    } catch {
      if (!signal.aborted) fill(place); // it says why when it is run
    }
  };
  const later = () => {
    asking.abort(); // what is answered now would be of a prompt as it was
    asking = new AbortController();
    clearTimeout(timer);
    timer = setTimeout(count, COUNT_MS);
  };
  return { place, later };
}

function takes(counts) {
  const said = ({ tokens, exact, cost }) => `${exact ? "" : "about "}${format.plural(tokens, "token")}${cost == null ? "" : ` · ${format.cost(cost)}`}`;
  const alike = counts.every((each) => said(each) === said(counts[0]));
  return `The prompt takes ${alike ? said(counts[0]) : counts.map((each) => `${said(each)} at ${each.place}`).join(", ")}.`;
}

/** Give a list of what was changed against the call as it was, made when it is opened, and then after each edit. */
function changeList(draft) {
  const original = draft.original?.call.request.body;
  if (!original) return { place: null, later: () => {} };
  const list = h("div");
  const title = h("summary", {}, "Changes to the call");
  const place = h("details.changes", {}, title, list);
  let timer = null;
  const compare = () => {
    const found = structure(original, draft.body);
    title.textContent = found.length ? `Changes to the call (${found.length})` : "Nothing is changed yet";
    if (place.open) fill(list, changeLines(found));
  };
  place.addEventListener("toggle", compare);
  return { place, later: () => { clearTimeout(timer); timer = setTimeout(compare, COUNT_MS); } };
}

function runBar(draft, setup, run, changed, takes) {
  return h("section.run-bar", { "aria-label": "Run" },
    placeBoxes(setup, [draft.operation], draft.places, (places) => { draft.places = places; changed(); }),
    h("div.run-options", {},
      labelled("times each", h("input", { type: "number", min: 1, max: 32, value: draft.count, oninput: (event) => { draft.count = Number(event.target.value) || 1; } })),
      labelled("as client", select(setup.clients, draft.client, (client) => { draft.client = client; }), "its quotas and rules apply"),
      labelled("your name", h("input", { type: "text", value: userName(), maxlength: 64, placeholder: "for the records", oninput: (event) => setName(event.target.value) })),
      h("div.run-start", {}, takes, button("Run", run, { class: "primary", title: "Run (Ctrl+Enter)", data: { action: "run" } }))));
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
