// `{{name}}` in texts: which there are. The server puts the values in.

const NAME = /\{\{\s*([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*\}\}/g;

/** List the names in a JSON value, in their order. */
export function names(value, found = new Set()) {
  if (typeof value === "string") for (const match of value.matchAll(NAME)) found.add(match[1]);
  else if (value && typeof value === "object") Object.values(value).forEach((each) => names(each, found));
  return [...found];
}
