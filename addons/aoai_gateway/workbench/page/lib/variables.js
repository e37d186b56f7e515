// `{{name}}` in texts: which there are, and what becomes of them.

const NAME = /\{\{\s*([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*\}\}/g;

/** List the names in a JSON value, in their order. */
export function names(value, found = new Set()) {
  if (typeof value === "string") for (const match of value.matchAll(NAME)) found.add(match[1]);
  else if (value && typeof value === "object") Object.values(value).forEach((each) => names(each, found));
  return [...found];
}

/** Put values in; a name without one stays as it is. */
export function filledIn(text, values) {
  return text.replace(NAME, (all, name) => values[name] ?? all);
}
