// The live list: as many rows as there are calls, of which only those that are seen are in the page.

import { h, fill, nodes } from "../lib/dom.js";
import * as format from "../lib/format.js";
import { fits, KINDS, parse } from "../lib/filters.js";
import { lines } from "../lib/threads.js";
import { outcome } from "./call.js";

const ROW = 58;
const BEYOND = 8;
// A click is a press and a release on one element: rows that are drawn anew between the two would swallow it. So
// the list stays still from the one to shortly after the other, where a touch becomes a click; but not for longer
// than a press takes, should its end be missed.
const PRESS_MS = 2000;
const RELEASE_MS = 50;

export class CallList {
  #rows = new Map();
  #lines = [];
  #opened = new Set();
  #filter = parse("");
  #found = null;
  #selected = null;
  #drawn = false;
  #stillUntil = 0;

  /** `onselect(id)`, `onterm(name, value)`: what a click means. */
  constructor(place, { onselect, onterm }) {
    this.onselect = onselect;
    this.onterm = onterm;
    this.status = h("p.list-status", { role: "status" });
    this.space = h("div.space", {});
    this.scroller = h("div.scroller", { tabindex: "0", role: "listbox", "aria-label": "Calls, newest first" }, this.space);
    this.scroller.addEventListener("scroll", () => this.#later());
    this.scroller.addEventListener("keydown", (event) => this.#key(event));
    this.space.addEventListener("pointerdown", () => this.#stayStill(PRESS_MS));
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => this.#stayStill(RELEASE_MS));
    new ResizeObserver(() => this.#later()).observe(this.scroller);
    fill(place, this.status, this.scroller);
  }

  /** Take rows that are new or changed. */
  put(rows) {
    for (const row of rows) this.#rows.set(row.id, row);
    this.#again();
  }

  remove(ids) {
    for (const id of ids) this.#rows.delete(id);
    this.#again();
  }

  clear() {
    this.#rows.clear();
    this.#again();
  }

  get(id) { return this.#rows.get(id); }

  get size() { return this.#rows.size; }

  held() { return [...this.#rows.values()].filter((row) => row.state === "held"); }

  filter(text, found) {
    this.#filter = parse(text);
    this.#found = found;
    this.#again();
  }

  select(id) {
    this.#selected = id;
    this.#later();
  }

  /** Go to the next or the previous call. */
  step(by) {
    const at = this.#lines.findIndex((line) => line.row.id === this.#selected);
    const next = this.#lines[at < 0 ? 0 : Math.max(0, Math.min(this.#lines.length - 1, at + by))];
    if (!next) return;
    this.#reveal(this.#lines.indexOf(next));
    this.onselect(next.row.id);
  }

  #reveal(at) {
    const { scrollTop, clientHeight } = this.scroller;
    if (at * ROW < scrollTop) this.scroller.scrollTop = at * ROW;
    else if ((at + 1) * ROW > scrollTop + clientHeight) this.scroller.scrollTop = (at + 1) * ROW - clientHeight;
  }

  #key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (by) {
      event.preventDefault();
      this.step(by);
    } else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && this.#selected) {
      const line = this.#lines.find((each) => each.row.id === this.#selected);
      if (line) this.#fold(line.thread, event.key === "ArrowRight");
    }
  }

  #fold(thread, open) {
    if (open) this.#opened.add(thread);
    else this.#opened.delete(thread);
    this.#again();
  }

  #again() {
    this.stale = true;
    this.#later();
  }

  #stayStill(milliseconds) {
    this.#stillUntil = performance.now() + milliseconds;
  }

  #later() {
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame((now) => {
      this.#drawn = false;
      if (now < this.#stillUntil) {
        this.#later();
        return;
      }
      if (this.stale) this.#arrange();
      this.#draw();
    });
  }

  #arrange() {
    this.stale = false;
    const rows = [...this.#rows.values()].filter((row) => fits(this.#filter, row, this.#found)).sort((a, b) => b.at - a.at);
    this.#lines = lines(rows, this.#opened);
    this.space.style.blockSize = `${this.#lines.length * ROW}px`;
    const all = this.#rows.size;
    this.status.textContent = rows.length === all ? format.plural(all, "call") : `${format.count(rows.length)} of ${format.plural(all, "call")}`;
  }

  #draw() {
    const from = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - BEYOND);
    const to = Math.min(this.#lines.length, from + Math.ceil((this.scroller.clientHeight || 600) / ROW) + 2 * BEYOND);
    const shown = this.#lines.slice(from, to).map((line, place) => this.#line(line, from + place));
    fill(this.space, shown.length ? shown : this.#empty());
    const active = this.space.querySelector("[aria-selected=true]");
    if (active) this.scroller.setAttribute("aria-activedescendant", active.id);
    else this.scroller.removeAttribute("aria-activedescendant");
  }

  #empty() {
    return h("p.empty", {}, this.#rows.size ? "No call fits the filter." : "No calls yet. They appear here as they are made.");
  }

  #line({ row, depth, more, thread }, place) {
    const selected = row.id === this.#selected;
    const line = h("div.row", {
      id: `row-${row.id}`, role: "option", "aria-selected": String(selected), "aria-setsize": this.#lines.length, "aria-posinset": place + 1,
      class: `${depth ? "inner" : ""} ${KINDS.failed(row) ? "is-failed" : ""} ${row.state}`, data: { call: row.id },
      onclick: () => this.onselect(row.id),
    },
      h("span.line", {}, h("span.prompt", { dir: "auto" }, more ? this.#foldButton(thread, more) : null, nodes(row.prompt || row.operation)),
        h("span.outcome", {}, this.#marks(row), h("span.status", { class: KINDS.failed(row) ? "bad" : "" }, outcome(row)))),
      h("span.line", {}, h("span.who", {}, this.#term("client", row.client), row.deployment ? [" → ", this.#term("deployment", row.deployment)] : null, row.backend ? h("span.backend", {}, ` ${row.backend}`) : null),
        h("span.numbers", { title: "duration · tokens in + out · cost · time" }, numbers(row))));
    line.style.insetBlockStart = `${place * ROW}px`;
    return line;
  }

  #foldButton(thread, more) {
    const open = this.#opened.has(thread);
    return h("span.fold", {
      title: `${format.plural(more, "earlier call")} of this conversation (→ unfolds)`, "aria-hidden": "true",
      onclick: (event) => { event.stopPropagation(); this.#fold(thread, !open); },
    }, `${open ? "▾" : "▸"} ${more + 1}`);
  }

  #marks(row) {
    const said = [];
    if (KINDS.replayed(row)) said.push(["replayed", `${row.attempts} attempts`]);
    if (KINDS.waited(row)) said.push(["waited", `waited ${format.duration(row.waited_ms)}`]);
    if (row.degraded) said.push(["degraded", row.degraded]);
    if (row.by) said.push(["workbench", `from the workbench, by ${row.by}`]);
    return said.map(([name, title]) => h("span.mark", { class: name, title, onclick: (event) => { event.stopPropagation(); this.onterm("is", name); } }, name));
  }

  #term(name, value) {
    return h("span.term", { title: `Only ${name} ${value}`, onclick: (event) => { event.stopPropagation(); this.onterm(name, value); } }, nodes(value || "?"));
  }
}

/** What matters least comes last: the end is cut off where a window is narrow. */
function numbers(row) {
  const parts = [];
  if (row.duration_ms != null) parts.push(format.duration(row.duration_ms));
  if (row.tokens_in != null) parts.push(`${format.count(row.tokens_in)} + ${format.count(row.tokens_out ?? 0)}`);
  if (row.cost != null) parts.push(format.cost(row.cost));
  parts.push(format.clock(row.at));
  return parts.join(" · ");
}
