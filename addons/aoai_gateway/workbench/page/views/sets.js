// Sets of cases: run against a prompt or a model, with a table of what passed, failed and cost.

import { h, button, fill, labelled, note, select, textBox } from "../lib/dom.js";
import { follow, get, send } from "../lib/api.js";
import { SYSTEM } from "../lib/conversation.js";
import { copied } from "../lib/draft.js";
import * as format from "../lib/format.js";
import { expectationForm } from "./expectations.js";
import { openDraft, userName } from "./editor.js";
import { placeBoxes } from "./places.js";

const AT_ONCE = 4;

/** List the sets. */
export async function showSets(place) {
  try {
    const { folder, names } = await get("/sets");
    fill(place, h("header.call-head", {}, h("h2", {}, "Sets of cases")), h("p.quiet-text", {}, `Files in ${folder}`),
      names.length ? h("ul.set-list", {}, names.map((name) => h("li", {}, h("a", { href: `#/sets/${encodeURIComponent(name)}` }, name))))
        : h("p", {}, "There are none yet. Run a prompt, and save an answer as a case."));
  } catch (error) {
    fill(place, h("p.problem", {}, error.message));
  }
}

/** Show one set. */
export async function showSet(place, name, setup) {
  try {
    const { set, version } = await get(`/sets/${encodeURIComponent(name)}`);
    new SetView(place, name, set, version, setup).draw();
  } catch (error) {
    fill(place, h("p.problem", {}, error.message));
  }
}

class SetView {
  constructor(place, name, set, version, setup) {
    Object.assign(this, { place, name, set, version, setup });
    const own = set.deployment && setup.places.includes(set.deployment) ? set.deployment : setup.places[0];
    this.places = own ? [own] : [];
    this.client = setup.clients[0] ?? "";
    this.system = "";
    this.results = new Map();
    this.running = false;
  }

  draw() {
    const { set, setup } = this;
    fill(this.place,
      h("header.call-head", {}, h("h2", {}, set.name ?? this.name), h("div.buttons", {}, button("Save the set", () => this.save(), { data: { action: "save-set" } }), h("a", { href: "#/sets" }, "All sets"))),
      h("section.run-bar", { "aria-label": "Run the set" },
        placeBoxes(setup, [...new Set(set.cases.map((each) => each.operation))], this.places, (places) => { this.places = places; this.draw(); }),
        h("div.run-options", {}, labelled("as client", select(setup.clients, this.client, (client) => { this.client = client; })),
          labelled("judge", select([["", "none"], ...setup.deployments], set.judge?.deployment ?? "", (deployment) => { if (deployment) set.judge = { deployment }; else delete set.judge; })),
          button(this.running ? "Running…" : "Run the set", () => this.run(), { class: "primary", disabled: this.running || !this.places.length, data: { action: "run-set" } })),
        h("details", { open: Boolean(this.system) }, h("summary", {}, "Another system prompt"), textBox(this.system, (text) => { this.system = text; }, { "aria-label": "System prompt instead of the cases' own", rows: 3 }))),
      this.table(), h("h3", {}, "Cases"), set.cases.map((each, at) => this.caseBox(each, at)));
  }

  table() {
    const { cases } = this.set;
    return h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Results of the set" }, h("table.figures-table.set-table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "case"), this.places.map((where) => h("th", { scope: "col" }, where)))),
      h("tbody", {}, cases.map((each, at) => h("tr", { data: { case: each.name } }, h("th", { scope: "row" }, each.name), this.places.map((where) => h("td", {}, this.cell(`${at} ${where}`)))))),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "all"), this.places.map((where) => h("td", {}, this.total(where)))))));
  }

  cell(key) {
    const result = this.results.get(key);
    if (!result) return h("span.quiet-text", {}, "–");
    if (result.state === "running") return h("span.quiet-text", {}, "…");
    const failed = result.checks.filter((each) => !each.passed);
    return [h("a", { href: `#/call/${result.id}`, class: result.passed ? "passed" : "failed" }, result.passed ? "passed" : "failed"),
      h("span.quiet-text", {}, ` ${format.duration(result.row?.duration_ms)}, ${format.cost(result.row?.cost)}`),
      failed.map((each) => h("p.problem", {}, `${each.expect}: ${each.detail}`)), result.problem ? h("p.problem", {}, result.problem) : null];
  }

  total(where) {
    const done = this.set.cases.map((_, at) => this.results.get(`${at} ${where}`)).filter((each) => each && each.state !== "running");
    if (!done.length) return "–";
    const sum = (read) => done.reduce((all, each) => all + (read(each.row) ?? 0), 0);
    const cost = done.some((each) => each.row?.cost != null) ? `, cost ${format.cost(sum((row) => row?.cost))}` : "";
    return `${done.filter((each) => each.passed).length} of ${done.length} passed${cost}, ${format.count(sum((row) => (row?.tokens_in ?? 0) + (row?.tokens_out ?? 0)))} tokens`;
  }

  caseBox(each, at) {
    const expectations = h("div.expectations");
    each.expect ??= [];
    expectationForm(expectations, each.expect, this.setup);
    return h("details.panel", {}, h("summary", {}, each.name),
      labelled("name", h("input", { type: "text", value: each.name, oninput: (event) => { each.name = event.target.value; } })), expectations,
      h("div.buttons", {}, button("Edit the prompt", () => {
        openDraft("new", { operation: each.operation, body: { ...copied(each.body), model: each.body.model ?? this.places[0]?.split("@")[0] ?? "" }, origin: null, held: false, client: this.client, places: [...this.places], count: 1, variables: { ...each.variables }, run: null, expect: copied(each.expect) });
        location.hash = "#/new";
      }), button("Remove the case", () => { this.set.cases.splice(at, 1); this.results.clear(); this.draw(); }, { class: "danger" })));
  }

  async save() {
    try {
      const { done, version } = await send("PUT", `/sets/${encodeURIComponent(this.name)}`, { set: this.set, version: this.version });
      this.version = version;
      note(done);
    } catch (error) {
      note(error.message, "problem");
    }
  }

  async run() {
    this.running = true;
    this.results.clear();
    const jobs = this.set.cases.flatMap((each, at) => this.places.map((where) => ({ each, where, key: `${at} ${where}` })));
    this.draw();
    const workers = Array.from({ length: AT_ONCE }, async () => {
      for (let job = jobs.shift(); job; job = jobs.shift()) {
        this.results.set(job.key, { state: "running" });
        this.results.set(job.key, await this.one(job.each, job.where));
        this.place.querySelector(".set-table")?.parentElement.replaceWith(this.table());
      }
    });
    await Promise.all(workers);
    this.running = false;
    this.draw();
  }

  async one(each, where) {
    try {
      const body = { ...copied(each.body), model: each.body.model ?? where.split("@")[0] };
      if (this.system) replaceSystem(each.operation, body, this.system);
      const by = userName();
      const run = await send("POST", "/runs", { operation: each.operation, body, client: this.client, by: by || "a set of cases", places: [where], count: 1, variables: each.variables ?? {} });
      await follow(`/runs/${run.run}`, () => {});
      const [entry] = run.entries;
      const { row } = await get(`/calls/${entry.id}`);
      const { results } = await send("POST", "/check", { call: entry.id, expect: each.expect ?? [], judge: this.set.judge ?? {}, client: this.client, by });
      const bad = (row.status ?? 0) >= 400 || row.status == null;
      return { id: entry.id, row, checks: results, passed: !bad && results.every((one) => one.passed), problem: bad && !results.length ? row.error : "" };
    } catch (error) {
      return { id: "", row: null, checks: [], passed: false, problem: error.message };
    }
  }
}

function replaceSystem(operation, body, system) {
  if (SYSTEM[operation]) { body[SYSTEM[operation]] = system; return; }
  if (!Array.isArray(body.messages)) return;
  const at = body.messages.findIndex((message) => ["system", "developer"].includes(message.role));
  if (at >= 0) body.messages[at] = { ...body.messages[at], content: system };
  else body.messages.unshift({ role: "system", content: system });
}
