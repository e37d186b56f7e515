// The filter box: words, and `name:value` for what a click on a value adds.
//
//   client:"Support bot" is:failed late order     words are looked for in prompts and answers
//   deployment:gpt-4o  backend:paygo  model of speech: not:…, slower:2s, tokens:>1000, by:ada

export const KINDS = {
  failed: (row) => row.state === "done" && (Boolean(row.error) || (row.status ?? 0) >= 400 || ["truncated", "error", "backends_out"].includes(row.outcome)),
  refused: (row) => row.outcome === "rejected",
  replayed: (row) => (row.attempts ?? 0) > 1,
  waited: (row) => (row.waited_ms ?? 0) >= 100,
  degraded: (row) => Boolean(row.degraded),
  slow: (row) => (row.duration_ms ?? 0) >= 5000,
  running: (row) => row.state === "running",
  held: (row) => row.state === "held",
  workbench: (row) => Boolean(row.by),
};

const FIELDS = ["client", "deployment", "backend", "operation", "by", "error", "thread", "status"];

/** Take a filter apart: `{terms: [{name, value, not}], words: [...]}`. */
export function parse(text) {
  const terms = [];
  const words = [];
  for (const found of text.matchAll(/(-?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))/gi)) {
    const value = found[3] ?? found[4];
    const name = found[2]?.toLowerCase();
    if (name && known(name)) terms.push({ name, value, not: found[1] === "-" });
    else if (name) words.push(`${name}:${value}`);
    else if (value) words.push(found[1] + value);
  }
  return { terms, words };
}

function known(name) {
  return FIELDS.includes(name) || ["is", "slower", "tokens"].includes(name);
}

/** Whether a row fits; `found`: ids of calls that have the words in their bodies, null if not asked. */
export function fits(filter, row, found = null) {
  for (const term of filter.terms) if (one(term, row) === term.not) return false;
  if (!filter.words.length || found?.has(row.id)) return true;
  const text = `${row.prompt} ${row.client} ${row.deployment} ${row.backend} ${row.error} ${row.by}`.toLowerCase();
  return filter.words.every((word) => text.includes(word.toLowerCase()));
}

function one({ name, value }, row) {
  if (name === "is") return Boolean(KINDS[value.toLowerCase()]?.(row));
  if (name === "slower") return (row.duration_ms ?? 0) >= milliseconds(value);
  if (name === "tokens") return compared((row.tokens_in ?? 0) + (row.tokens_out ?? 0), value);
  if (name === "status" || name === "thread") return String(row[name] ?? "") === value;
  return String(row[name] ?? "").toLowerCase().includes(value.toLowerCase());
}

export function milliseconds(value) {
  const found = /^(\d+(?:\.\d+)?)(ms|s|min)?$/.exec(value);
  if (!found) return Infinity;
  return Number(found[1]) * { ms: 1, s: 1000, min: 60_000 }[found[2] ?? "s"];
}

function compared(number, value) {
  const found = /^([<>]?)(\d+)$/.exec(value.replaceAll(",", ""));
  if (!found) return false;
  return found[1] === "<" ? number < Number(found[2]) : number >= Number(found[2]);
}

/** Add a term to a filter's text, or take it out where it is already there. */
export function toggled(text, name, value) {
  const written = `${name}:${/[\s"]/.test(value) ? `"${value.replaceAll('"', "")}"` : value}`;
  if (` ${text} `.includes(` ${written} `)) return ` ${text} `.replace(` ${written} `, " ").trim();
  return `${text.trim()} ${written}`.trim();
}
