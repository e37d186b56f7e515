// When what happened in a call: the queue, the attempts, the first token, the stream.

import { button, h } from "../lib/dom.js";
import * as format from "../lib/format.js";

/** Show the time axis of a call; null where no times were kept. */
export function timeline(call) {
  const { row } = call;
  const total = row.duration_ms;
  if (!total || total <= 0) return null;
  const spans = spansOf(call, total);
  const share = (ms) => `${Math.max(0, Math.min(100, (100 * ms) / total))}%`;
  const lanes = spans.map((span) => {
    const bar = h("span.bar", { class: span.kind });
    bar.style.insetInlineStart = share(span.from);
    bar.style.inlineSize = share(Math.max(span.to - span.from, total / 200));
    const name = span.attempt ? button(span.name, () => openAttempt(span.attempt), { class: "quiet", title: "Show what the failed attempt answered" }) : span.name;
    const lane = h("div.lane", {}, h("span.lane-name", {}, name), h("span.track", { "aria-hidden": "true" }, bar),
      h("span.lane-time", {}, span.words ?? format.duration(span.to - span.from)));
    if (span.ticks) for (const at of span.ticks) lane.querySelector(".track").append(tick(share(at)));
    return lane;
  });
  return h("section.timeline", { "aria-label": "Time axis" }, lanes,
    h("div.lane.axis", {}, h("span.lane-name"), h("span.track", {}, h("span", {}, "0"), h("span", {}, format.duration(total / 2)), h("span", {}, format.duration(total))), h("span.lane-time")));
}

/** Open a failed attempt, and go to it. */
function openAttempt(number) {
  const found = document.querySelector(`.attempt[data-attempt="${number}"]`);
  if (!found) return;
  found.open = true;
  found.scrollIntoView({ block: "center" });
  found.querySelector("summary").focus();
}

function tick(place) {
  const mark = h("span.tick");
  mark.style.insetInlineStart = place;
  return mark;
}

function spansOf(call, total) {
  const { row } = call;
  const spans = [];
  if (row.waited_ms) spans.push({ name: call.queue_ms ? "queue" : "waited", kind: "wait", from: 0, to: row.waited_ms });
  for (const [place, attempt] of call.timeline.entries()) {
    const failed = Boolean(attempt.reason);
    const to = attempt.ended ?? (failed ? attempt.answered : row.first_ms ?? attempt.answered) ?? total;
    spans.push({
      attempt: call.attempts.some((each) => each.number === place + 1) ? place + 1 : null,
      name: attempt.backend, kind: failed ? "failed" : "sent", from: attempt.started ?? 0, to: failed ? to : row.first_ms ?? attempt.answered ?? to,
      words: failed ? attempt.reason : `answered after ${format.duration((row.first_ms ?? attempt.answered ?? to) - (attempt.started ?? 0))}`,
    });
  }
  if (row.first_ms != null) {
    const ticks = call.chunks.map((after) => row.first_ms + after);
    const [middle, longest] = call.gaps;
    const gaps = middle == null ? "" : `, gaps ${format.duration(middle)} (median), ${format.duration(longest)} (longest)`;
    spans.push({ name: "stream", kind: "stream", from: row.first_ms, to: total, ticks, words: `first token after ${format.duration(row.first_ms)}${gaps}` });
  }
  return spans;
}
