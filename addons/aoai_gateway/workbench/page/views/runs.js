// The answers of a run side by side, as they stream; and then how they differ.

import { h, button, fill, nodes, note, select } from "../lib/dom.js";
import { follow, get, send } from "../lib/api.js";
import { alike, asJson, structure, variance } from "../lib/diff.js";
import * as format from "../lib/format.js";
import { copyButtons, facts } from "./call.js";
import { changeLines, wordLine } from "./differences.js";
import { suited } from "./richtext.js";
import { saveAsCase } from "./save.js";

/** Show a run in a place, and follow it to its end. */
export function showRun(place, run, draft, setup) {
  const view = new RunView(place, run, draft, setup);
  view.follow();
  return view;
}

class RunView {
  constructor(place, run, draft, setup) {
    this.place = place;
    this.run = run;
    this.draft = draft;
    this.setup = setup;
    this.entries = run.entries.map((entry) => ({ ...entry, text: "", call: null }));
    // What answers can be compared to: each other, what was kept of an earlier run, the call as it was.
    this.others = [draft.kept, draft.original].filter((each) => each && said(each.call) && !this.entries.some((entry) => entry.id === each.id));
    this.base = (this.others[0] ?? this.entries[0]).id;
    this.differences = false;
    this.draw();
  }

  async follow() {
    try {
      await follow(`/runs/${this.run.run}`, (event, told) => { if (event === "entries") this.take(told); });
    } catch (error) {
      note(error.message, "problem");
    }
    await Promise.all(this.entries.map((entry) => this.finish(entry)));
    this.draw();
  }

  take(told) {
    for (const each of told) {
      const entry = this.entries.find((own) => own.id === each.id);
      const was = entry.state;
      entry.text = entry.text.slice(0, each.since) + each.text;
      entry.state = each.state;
      const card = this.card(entry);
      if (!card) continue;
      if (was !== entry.state) {
        card.dataset.state = entry.state;
        card.querySelector(".state").textContent = entry.state;
        if (["done", "failed"].includes(entry.state)) this.finish(entry).then(() => this.draw());
      }
      if (!entry.call && each.text) card.querySelector(".streaming").append(...nodes(each.text));
    }
  }

  card(entry) {
    return this.place.querySelector(`[data-entry="${entry.id}"]`);
  }

  async finish(entry) {
    if (entry.call || !["done", "failed"].includes(entry.state)) return;
    try {
      entry.call = await get(`/calls/${entry.id}`);
    } catch (error) {
      entry.problem = error.message;
    }
  }

  get over() {
    return this.entries.every((entry) => ["done", "failed"].includes(entry.state));
  }

  draw() {
    const several = this.entries.length > 1;
    fill(this.place, h("header.results-head", {}, h("h3", {}, several ? format.plural(this.entries.length, "answer") : "Answer"),
      this.over ? null : button("Stop", () => send("DELETE", `/runs/${this.run.run}`).catch((error) => note(error.message, "problem"))),
      several || this.others.length ? this.differenceSwitch() : null),
    this.figures(), this.variance(),
    h("div.cards", { tabindex: "0", role: "group", "aria-label": "Answers side by side" }, this.entries.map((entry) => this.entryCard(entry))));
  }

  differenceSwitch() {
    return h("span.difference", {},
      button("Differences", () => { this.differences = !this.differences; this.draw(); }, { "aria-pressed": String(this.differences), data: { action: "differences" } }),
      this.differences ? h("label", {}, " to ", select([...this.others.map((each) => [each.id, each.title]), ...this.entries.map((entry) => [entry.id, this.title(entry)])], this.base, (id) => { this.base = id; this.draw(); }, { "aria-label": "Compared to" })) : null);
  }

  title(entry) {
    const several = this.entries.filter((each) => each.place === entry.place).length > 1;
    return several ? `${entry.place} #${entry.number}` : entry.place;
  }

  figures() {
    const known = this.entries.filter((entry) => entry.call);
    if (!known.length) return null;
    const rows = [
      ["status", (row) => (row.error ? `${row.status ?? "–"} ${row.error}` : String(row.status ?? "–"))],
      ["backend", (row) => row.backend || "–"],
      ["tokens in", (row) => format.count(row.tokens_in)], ["tokens out", (row) => format.count(row.tokens_out)],
      ["cost", (row) => format.cost(row.cost)], ["first token", (row) => format.duration(row.first_ms)], ["total", (row) => format.duration(row.duration_ms)],
    ];
    return h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Figures" }, h("table.figures-table", {},
      h("thead", {}, h("tr", {}, h("td"), this.entries.map((entry) => h("th", { scope: "col" }, this.title(entry))))),
      h("tbody", {}, rows.filter(([name]) => name !== "first token" || this.entries.some((entry) => !entry.call || entry.call.row.first_ms !== null)).map(([name, cell]) => h("tr", {}, h("th", { scope: "row" }, name), this.entries.map((entry) => h("td", {}, entry.call ? cell(entry.call.row) : "…")))))));
  }

  variance() {
    if (!this.over) return null;
    const places = [...new Set(this.entries.map((entry) => entry.place))];
    const lines = places.flatMap((where) => {
      const own = this.entries.filter((entry) => entry.place === where && entry.call && entry.state === "done");
      if (own.length < 2) return [];
      const found = variance(own.map((entry) => said(entry.call)), own.map((entry) => entry.call.row.duration_ms));
      const latency = found.latency ? `, ${format.duration(found.latency.least)} to ${format.duration(found.latency.most)} (± ${format.duration(found.latency.deviation)})` : "";
      return [h("li", {}, h("strong", {}, where), `: ${own.length} answers of ${format.span(found.words.least, found.words.most)} words${latency}, ${Math.round(100 * found.agreement)} % alike`)];
    });
    return lines.length ? h("ul.variance", { "aria-label": "Variance" }, lines) : null;
  }

  entryCard(entry) {
    const kept = this.draft.kept?.id === entry.id;
    return h("article.card", { class: kept ? "kept" : "", data: { entry: entry.id, place: entry.place, state: entry.state } },
      h("header", {}, h("h4", {}, this.title(entry)), h("span.state", {}, entry.state)),
      h("div.streaming", {}, entry.call ? this.body(entry) : nodes(entry.text)),
      entry.problem ? h("p.problem", {}, entry.problem) : null,
      entry.call ? [h("div.buttons", {},
        button(kept ? "Kept" : "Keep", () => this.keep(entry, kept), { "aria-pressed": String(kept), data: { action: "keep" } }),
        ...copyButtons(entry.id),
        button("Save as case", () => saveAsCase(entry.call, { sent: this.run.sent, expect: this.draft.expect }, this.setup), { data: { action: "save-case" } }),
        h("a", { href: `#/call/${entry.id}` }, "Open the call")),
      h("details", {}, h("summary", {}, "Facts"), facts(entry.call))] : null);
  }

  keep(entry, kept) {
    this.draft.kept = kept ? null : { id: entry.id, call: entry.call, title: `kept: ${entry.place}` };
    this.base = entry.id;
    this.draw();
  }

  body(entry) {
    const own = said(entry.call);
    const base = [...this.others, ...this.entries].find((each) => each.id === this.base);
    if (!this.differences || base === entry || !base.call) return own ? suited(own) : [entry.call.answer?.error ? h("p.problem", {}, entry.call.answer.error) : h("p.quiet-text", {}, "There is no text.")];
    const before = said(base.call);
    const jsons = [asJson(before), asJson(own)];
    if (jsons.every((each) => each !== undefined)) return structureList(structure(...jsons));
    return [h("p.quiet-text", {}, `${Math.round(100 * alike(before, own))} % alike`), h("div.text.plain.diff", { dir: "auto" }, wordLine(before, own))];
  }
}

/** Give what a call's answer says: its first choice's texts and tool calls. */
export function said(call) {
  const parts = call.answer?.choices[0]?.parts ?? [];
  return parts.filter((part) => !/^reasoning/.test(part.title)).map((part) => (part.kind === "text" ? part.text : `[${part.title.split(" · ")[0]}] ${part.text}`)).join("\n") || call.answer?.text || "";
}

function structureList(found) {
  return found.length ? changeLines(found) : h("p.quiet-text", {}, "The same JSON value.");
}
