// Elements from values. A child that is a string becomes text: nothing here ever parses HTML, so what prompts say
// can only be shown, and what cannot be seen in it is made visible.

import { visible } from "./text.js";

/**
 * Make an element.
 * @param {string} tag  name, with classes after dots: "button.quiet"
 * @param {object} [props]  attributes; `on…` are listeners, `data` a map of data attributes; null is left out
 * @param {...(Node|string|number|null|Array)} children
 */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) set(element, key, value);
  append(element, children);
  return element;
}

function set(element, key, value) {
  if (value == null || value === false) return;
  if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
  else if (key === "data") Object.assign(element.dataset, value);
  else if (key === "class") element.classList.add(...value.split(" ").filter(Boolean));
  else if (key === "value") element.value = value;
  else if (key === "checked" || key === "disabled" || key === "open") element[key] = Boolean(value);
  else element.setAttribute(key, value === true ? "" : String(value));
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child == null || child === false) continue;
    element.append(...(child instanceof Node ? [child] : nodes(String(child))));
  }
}

/** Give nodes for a text, what cannot be seen in it made visible. */
export function nodes(text) {
  return visible(text).map((piece) =>
    typeof piece === "string" ? document.createTextNode(piece) : h("span.hidden-character", { title: piece.name }, piece.code),
  );
}

/** Replace all that is in an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** Give a button. */
export function button(label, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, label);
}

/** Give a label around a field. */
export function labelled(text, field, hint) {
  return h("label.field", {}, h("span.label", {}, text), field, hint ? h("span.hint", {}, hint) : null);
}

/** Give a select of values, or of [value, label] pairs. */
export function select(options, value, onchange, props = {}) {
  const element = h("select", { onchange: (event) => onchange(event.target.value), ...props });
  for (const option of options) {
    const [own, label] = Array.isArray(option) ? option : [option, option];
    element.append(h("option", { value: own, selected: own === value }, label));
  }
  element.value = value;
  return element;
}

/** Give a text box as high as its text, with real line breaks. */
export function textBox(value, oninput, props = {}) {
  const box = h("textarea", { rows: 1, spellcheck: "false", dir: "auto", ...props });
  box.value = value;
  const grow = () => {
    box.rows = Math.min(30, Math.max(props.rows ?? 1, box.value.split("\n", 40).length));
    if (!box.isConnected) return;
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, 640)}px`;
  };
  box.addEventListener("input", () => { oninput(box.value); grow(); });
  requestAnimationFrame(grow);
  return box;
}

/** Say something at the top of the page, for a while. */
export function note(text, kind = "info") {
  const place = document.getElementById("note");
  const line = h(`p.${kind}`, {}, text, button("×", () => line.remove(), { "aria-label": "Close this note", class: "quiet" }));
  fill(place, line);
  if (kind === "info") setTimeout(() => line.remove(), 6000);
}

/** Copy a text, and say so. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    note(`${what} copied.`);
  } catch {
    note("The browser does not let this page use the clipboard; select the text and copy it.", "problem");
  }
}
