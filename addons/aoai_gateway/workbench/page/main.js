// The page: the list on the left, what is looked at on the right, and the keys.

import { h, button, fill, labelled, note, select } from "./lib/dom.js";
import { follow, get, onKeyNeeded, send, takeToken } from "./lib/api.js";
import { KINDS, parse, toggled } from "./lib/filters.js";
import { CallList } from "./views/list.js";
import { showCall } from "./views/call.js";
import { showEditor } from "./views/editor.js";
import { showSet, showSets } from "./views/sets.js";

const RETRY_MS = 2000;
const SEARCH_MS = 300;
const detail = document.getElementById("detail");
const filterBox = h("input", { type: "search", placeholder: "Filter: words, client:…, is:failed, slower:2s  ( / )", "aria-label": "Filter calls", oninput: () => filtered(), id: "filter" });
let setup = null;
let look = null;
let searching = null;
let shownState = "";

takeToken();
onKeyNeeded(askForKey);

const list = new CallList(document.getElementById("list"), {
  onselect: (id) => { location.hash = `#/call/${id}`; },
  onterm: (name, value) => { filterBox.value = toggled(filterBox.value, name, value); filtered(); },
});

function askForKey(wrong) {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    const field = h("input", { type: "password", autocomplete: "current-password", required: true });
    fill(dialog, h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); if (field.value) { dialog.close(); resolve(field.value); } } },
      h("h2", { id: "dialog-title" }, "Workbench"), wrong ? h("p.problem", {}, "That was not it.") : null,
      labelled("password or token", field, "mitmweb's, which its log shows, or that of the section admin"), h("div.buttons", {}, h("button.primary", { type: "submit" }, "Open"))));
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
  });
}

// --- the list -----------------------------------------------------------------------------------------------

async function followCalls() {
  for (;;) {
    try {
      await follow("/calls", (event, data) => {
        if (event === "rows") { list.put(data); seen(data); }
        else if (event === "gone") list.remove(data);
        else if (event === "ready") document.body.dataset.ready = "true";
      });
    } catch { /* the gateway is gone, or was restarted */ }
    document.body.dataset.ready = "false";
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    list.clear();
  }
}

function seen(rows) {
  const [view, id] = route();
  const shown = view === "call" && rows.find((row) => row.id === id);
  if (shown && look) {
    const state = `${shown.state} ${shown.duration_ms}`;
    if (state !== shownState) { shownState = state; look(); }
  }
  const waiting = list.held().length;
  const mark = document.getElementById("held-count");
  if (mark) mark.textContent = waiting ? ` (${waiting} held)` : "";
}

function filtered() {
  const text = filterBox.value;
  clearTimeout(searching);
  drawChips();
  const { words } = parse(text);
  list.filter(text, null);
  if (!words.length) return;
  searching = setTimeout(async () => {
    try {
      const { ids } = await get(`/search?text=${encodeURIComponent(words.join(" "))}`);
      if (filterBox.value === text) list.filter(text, new Set(ids));
    } catch (error) {
      note(error.message, "problem");
    }
  }, SEARCH_MS);
}

const chips = h("div.chips", { role: "group", "aria-label": "Only" });

function drawChips() {
  const shown = Object.keys(KINDS);
  fill(chips, shown.map((kind) => {
    const on = ` ${filterBox.value} `.includes(` is:${kind} `);
    return button(kind, () => { filterBox.value = toggled(filterBox.value, "is", kind); filtered(); }, { "aria-pressed": String(on), class: "chip", data: { kind } });
  }));
}

// --- what is looked at --------------------------------------------------------------------------------------

function route() {
  return location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
}

function show() {
  const [view, id, more] = route();
  const place = h("div.view");
  look = null;
  document.querySelector("#note .problem")?.remove();
  fill(detail, h("a.back", { href: "#/" }, "← Calls"), place);
  document.body.dataset.view = view || "list";
  list.select(view === "call" ? id : null);
  detail.scrollTop = 0;
  if (view === "call" && more === "edit") showEditor(place, id, setup);
  else if (view === "call") look = showCall(place, id);
  else if (view === "new") showEditor(place, null, setup);
  else if (view === "sets" && id) showSet(place, id, setup);
  else if (view === "sets") showSets(place);
  else fill(place, welcome());
}

function welcome() {
  const keys = [["j, k or ↓ ↑", "next, previous call"], ["/", "filter"], ["e", "edit and run the call"], ["n", "new prompt"], ["Ctrl+Enter", "run"], ["s", "sets of cases"], ["Esc", "back"]];
  return [h("h2", {}, "Choose a call"), h("p", {}, "Every call to the gateway appears on the left as it is made. Read it as a conversation, edit it, run it elsewhere, compare, and keep it as a case."),
    h("dl.keys", {}, keys.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what))))];
}

// --- the top ------------------------------------------------------------------------------------------------

function drawTop() {
  fill(document.getElementById("search"), filterBox, chips);
  drawChips();
  fill(document.getElementById("actions"), setup.can_hold ? holdChoice() : null,
    h("a.button", { href: "#/new" }, "New prompt"), h("a.button", { href: "#/sets" }, "Sets"));
}

function holdChoice() {
  const held = setup.held_client;
  const options = [["", "nothing"], ...(held === "*" ? [["*", "mitmweb's filter"]] : []), ...setup.clients];
  return h("label.hold", {}, h("span", {}, "Hold", h("span", { id: "held-count" })), select(options, held ?? "", async (client) => {
    try {
      setup.held_client = (await send("POST", "/hold", { client: client || null })).held_client;
      note(client ? `Calls of ${client} wait here until you let them go.` : "No calls are held from now on.");
    } catch (error) {
      note(error.message, "problem");
    }
    drawTop();
  }, { "aria-label": "Hold the calls of a client" }));
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "Escape" && !document.getElementById("dialog").open) {
    if (typing) event.target.blur();
    else if (location.hash.endsWith("/edit")) location.hash = location.hash.replace(/\/edit$/, "");
    else location.hash = "#/";
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !document.getElementById("dialog").open) {
    // Wherever the focus is: after `e` it is still in the list.
    const run = detail.querySelector('[data-action="run"]');
    if (run) {
      event.preventDefault();
      run.click();
    }
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.getElementById("dialog").open) return;
  const act = { j: () => list.step(1), k: () => list.step(-1), "/": () => filterBox.focus(), n: () => { location.hash = "#/new"; }, s: () => { location.hash = "#/sets"; },
    e: () => { const [view, id] = route(); if (view === "call") location.hash = `#/call/${id}/edit`; } }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

async function begin() {
  for (;;) {
    try {
      setup = await get("/setup");
      break;
    } catch (error) {
      note(error.message, "problem");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
  drawTop();
  addEventListener("hashchange", show);
  show();
  followCalls();
}

begin();
