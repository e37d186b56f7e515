// Two answers: which words differ (Myers' O(ND) algorithm), and which members of two JSON values.

const MOST_WORDS = 6_000;
const MOST_EDITS = 1_500;

/** Split a text into words and the white space between them. */
export function pieces(text) {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

/**
 * Compare two texts.
 * @returns {Array<{kind: "same"|"gone"|"new", text: string}>}
 */
export function words(before, after) {
  const a = pieces(before);
  const b = pieces(after);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const middle = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
  const steps = middle[0].length + middle[1].length > 2 * MOST_WORDS ? null : myers(...middle);
  const found = [];
  add(found, "same", a.slice(0, head));
  if (steps) for (const [kind, piece] of steps) add(found, kind, [piece]);
  else {
    add(found, "gone", middle[0]);
    add(found, "new", middle[1]);
  }
  add(found, "same", a.slice(a.length - tail));
  return found;
}

function add(found, kind, texts) {
  if (!texts.length) return;
  const text = texts.join("");
  if (found.at(-1)?.kind === kind) found.at(-1).text += text;
  else found.push({ kind, text });
}

function myers(a, b) {
  const size = a.length + b.length;
  let reach = new Map([[1, 0]]);
  const trace = [];
  for (let edits = 0; edits <= Math.min(size, MOST_EDITS); edits += 1) {
    trace.push(new Map(reach));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits || (k !== edits && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
      let x = down ? reach.get(k + 1) ?? 0 : (reach.get(k - 1) ?? 0) + 1;
      let y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) { x += 1; y += 1; }
      reach.set(k, x);
      if (x >= a.length && y >= b.length) return backwards(trace, a, b);
    }
  }
  return null;
}

function backwards(trace, a, b) {
  const steps = [];
  let x = a.length;
  let y = b.length;
  for (let edits = trace.length - 1; edits >= 0; edits -= 1) {
    const reach = trace[edits];
    const k = x - y;
    const down = k === -edits || (k !== edits && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
    const before = down ? k + 1 : k - 1;
    const fromX = edits === 0 ? 0 : reach.get(before) ?? 0;
    const fromY = edits === 0 ? 0 : fromX - before;
    while (x > fromX && y > fromY) { steps.push(["same", a[x - 1]]); x -= 1; y -= 1; }
    if (edits > 0) {
      if (down) { steps.push(["new", b[y - 1]]); y -= 1; } else { steps.push(["gone", a[x - 1]]); x -= 1; }
    }
  }
  return steps.reverse();
}

/** How much of two texts is the same, from 0 to 1, by length. */
export function alike(before, after) {
  const size = before.length + after.length;
  if (!size) return 1;
  const same = words(before, after).filter((step) => step.kind === "same");
  return (2 * same.reduce((sum, step) => sum + step.text.length, 0)) / size;
}

/** Decode an answer that is JSON, perhaps in a code fence; undefined if it is not. */
export function asJson(text) {
  const inner = /^\s*```(?:json)?\s*\n([\s\S]*?)\n\s*```\s*$/.exec(text)?.[1] ?? text;
  if (!/^\s*[[{]/.test(inner)) return undefined;
  try {
    return JSON.parse(inner);
  } catch {
    return undefined;
  }
}

/**
 * Compare two JSON values by structure.
 * @returns {Array<{path: string, kind: "gone"|"new"|"changed", before?: any, after?: any}>}
 */
export function structure(before, after, path = "$", found = []) {
  if (found.length > 500 || Object.is(before, after)) return found;
  const both = [before, after];
  if (both.every(Array.isArray)) return lists(before, after, path, found);
  if (both.every((each) => each && typeof each === "object" && !Array.isArray(each))) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
      const inner = `${path}.${key}`;
      if (!(key in after)) found.push({ path: inner, kind: "gone", before: before[key] });
      else if (!(key in before)) found.push({ path: inner, kind: "new", after: after[key] });
      else structure(before[key], after[key], inner, found);
    }
    return found;
  }
  found.push({ path, kind: "changed", before, after });
  return found;
}

/** What is alike at the begin and at the end of two lists stays out, or all after a new element would differ. */
function lists(before, after, path, found) {
  const [a, b] = [before, after].map((list) => list.map((each) => JSON.stringify(each)));
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  for (let at = head; at < Math.max(a.length, b.length) - tail; at += 1) {
    const inner = `${path}[${at}]`;
    if (at >= b.length - tail) found.push({ path: inner, kind: "gone", before: before[at] });
    else if (at >= a.length - tail) found.push({ path: inner, kind: "new", after: after[at] });
    else structure(before[at], after[at], inner, found);
  }
  return found;
}

/** Figures of several answers to one prompt: spread of length and latency, and how much they agree. */
export function variance(texts, latencies) {
  const lengths = texts.map((text) => pieces(text).filter((piece) => piece.trim()).length);
  const agreements = [];
  for (let i = 0; i < texts.length; i += 1) for (let j = 0; j < i; j += 1) agreements.push(alike(texts[i], texts[j]));
  return { words: spread(lengths), latency: spread(latencies), agreement: agreements.length ? mean(agreements) : null };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function spread(values) {
  const known = values.filter((value) => value != null);
  if (!known.length) return null;
  const middle = mean(known);
  const deviation = Math.sqrt(mean(known.map((value) => (value - middle) ** 2)));
  return { mean: middle, deviation, least: Math.min(...known), most: Math.max(...known) };
}
