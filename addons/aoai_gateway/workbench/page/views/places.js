// The boxes by which a user chooses where a prompt is run.

import { h } from "../lib/dom.js";
import { groups } from "../lib/places.js";

/** Give the boxes; `changed` gets the places that are chosen then. */
export function placeBoxes(setup, operations, chosen, changed) {
  let now = chosen;
  const box = (where) => h("label.choice", {}, h("input", {
    type: "checkbox", value: where, checked: chosen.includes(where),
    onchange: (event) => { now = event.target.checked ? [...now, where] : now.filter((each) => each !== where); changed(now); },
  }), where);
  return h("fieldset.places", {}, h("legend", {}, "Run on"),
    groups(setup, operations, chosen).map(({ title, places }) => h("div.place-group", { role: "group", "aria-label": title },
      h("span.group-title", {}, title), h("div.choices", {}, places.map(box)))));
}
