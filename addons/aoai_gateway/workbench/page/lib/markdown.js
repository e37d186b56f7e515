// Markdown -> a tree of plain values, of what models write: no HTML, no images, no links that run anything.
// Each line is looked at once, and inline marks are found by one pass over the characters.

const LONGEST = 100_000;

/**
 * Parse a text.
 * @returns {Array<object>|null}  blocks; null where a text is too long to be worth it
 */
export function parse(text) {
  return text.length > LONGEST ? null : blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
}

function blocks(rows, depth) {
  const found = [];
  let at = 0;
  while (at < rows.length) {
    const row = rows[at];
    const fence = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/.exec(row);
    if (!row.trim()) at += 1;
    else if (fence) at = code(rows, at, fence, found);
    else if (/^ {0,3}#{1,6}\s/.test(row)) {
      const [, marks, title] = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/.exec(row) ?? [null, "#", row];
      found.push({ kind: "heading", level: marks.length, inline: inline(title) });
      at += 1;
    } else if (/^ {0,3}([-*_])(\s*\1){2,}\s*$/.test(row)) {
      found.push({ kind: "rule" });
      at += 1;
    } else if (/^ {0,3}>/.test(row) && depth < 8) {
      const inner = [];
      while (at < rows.length && /^ {0,3}>/.test(rows[at])) inner.push(rows[at++].replace(/^ {0,3}> ?/, ""));
      found.push({ kind: "quote", blocks: blocks(inner, depth + 1) });
    } else if (item(row) && depth < 8) at = list(rows, at, found, depth);
    else if (isTable(rows, at)) at = table(rows, at, found);
    else at = paragraph(rows, at, found);
  }
  return found;
}

function code(rows, at, fence, found) {
  const inner = [];
  at += 1;
  while (at < rows.length && !rows[at].trimStart().startsWith(fence[1])) inner.push(rows[at++]);
  found.push({ kind: "code", language: fence[2], text: inner.join("\n") });
  return at + 1;
}

const item = (row) => /^( {0,8})([-*+]|\d{1,9}[.)])(\s+)(.*)$/.exec(row);

function list(rows, at, found, depth) {
  const first = item(rows[at]);
  const ordered = /\d/.test(first[2]);
  const items = [];
  while (at < rows.length) {
    const next = item(rows[at]);
    if (!next || next[1].length > first[1].length + 1 || /\d/.test(next[2]) !== ordered) break;
    const indent = next[1].length + next[2].length + 1;
    const inner = [next[4]];
    at += 1;
    while (at < rows.length && (rows[at].trim() ? leading(rows[at]) >= Math.min(indent, 2) + first[1].length : leading(rows[at + 1] ?? "") >= indent)) {
      inner.push(rows[at++].slice(Math.min(indent, leading(rows[at - 1]))));
    }
    items.push(blocks(inner, depth + 1));
    while (at < rows.length && !rows[at].trim() && item(rows[at + 1] ?? "")) at += 1;
  }
  found.push({ kind: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items });
  return at;
}

const leading = (row) => row.length - row.trimStart().length;

function isTable(rows, at) {
  return rows[at].includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(rows[at + 1] ?? "") && rows[at + 1].includes("-");
}

function table(rows, at, found) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));
  const head = cells(rows[at]);
  const body = [];
  at += 2;
  while (at < rows.length && rows[at].includes("|")) body.push(cells(rows[at++]));
  found.push({ kind: "table", head, body });
  return at;
}

function paragraph(rows, at, found) {
  const inner = [];
  while (at < rows.length && rows[at].trim() && !(inner.length && starts(rows, at))) inner.push(rows[at++]);
  found.push({ kind: "paragraph", inline: inline(inner.join("\n")) });
  return at;
}

const starts = (rows, at) => /^ {0,3}(#{1,6}\s|```|~~~|>)/.test(rows[at]) || item(rows[at]) || isTable(rows, at);

const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "gone"], ["*", "emphasis"], ["_", "emphasis"]];
const WORD = /[\p{L}\p{N}]/u;

/** Parse what is in a line: strings and `{kind, …}`. */
export function inline(text, depth = 0) {
  const found = [];
  let plain = "";
  let at = 0;
  const put = (piece) => {
    if (plain) found.push(plain);
    plain = "";
    found.push(piece);
  };
  while (at < text.length) {
    const piece = depth < 6 ? mark(text, at, depth) : null;
    if (piece) {
      put(piece.node);
      at = piece.end;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  if (plain) found.push(plain);
  return found;
}

function mark(text, at, depth) {
  const character = text[at];
  if (character === "`") {
    const ticks = /^`+/.exec(text.slice(at, at + 8))[0];
    const end = text.indexOf(ticks, at + ticks.length);
    return end < 0 ? null : { node: { kind: "code", text: text.slice(at + ticks.length, end).replace(/^ (.+) $/, "$1") }, end: end + ticks.length };
  }
  if (character === "[" || (character === "!" && text[at + 1] === "[")) return link(text, at);
  if (!"*_~".includes(character)) return null;
  for (const [sign, kind] of MARKS) {
    if (!text.startsWith(sign, at) || /\s/.test(text[at + sign.length] ?? " ")) continue;
    if (sign[0] === "_" && WORD.test(text[at - 1] ?? "")) continue;
    const end = text.indexOf(sign, at + sign.length + 1);
    if (end < 0 || end - at > 2000 || /\s/.test(text[end - 1])) continue;
    if (sign[0] === "_" && WORD.test(text[end + sign.length] ?? "")) continue;
    return { node: { kind, inline: inline(text.slice(at + sign.length, end), depth + 1) }, end: end + sign.length };
  }
  return null;
}

function link(text, at) {
  const found = /^(!?)\[([^[\]\n]{0,500})\]\(\s*([^()\s]{1,2000})(?:\s+"[^"\n]{0,200}")?\s*\)/.exec(text.slice(at, at + 3000));
  if (!found) return null;
  // Only web addresses can be followed; of any other, and of an image, the address is shown as text.
  const safe = !found[1] && /^https?:\/\//i.test(found[3]);
  return { node: { kind: "link", text: found[2], address: found[3], safe, image: Boolean(found[1]) }, end: at + found[0].length };
}
