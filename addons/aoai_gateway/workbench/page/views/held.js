// What becomes of a held call.

import { h, button, note } from "../lib/dom.js";
import { send } from "../lib/api.js";

/** Show what can be done with a held call. `edit`: gives it the body that was edited; null where none was. */
export function heldBar(id, edit = null) {
  const act = async (what) => {
    try {
      note((await send("POST", `/calls/${id}/${what}`)).done);
      location.hash = `#/call/${id}`;
    } catch (error) {
      note(error.message, "problem");
    }
  };
  const edited = async () => {
    try {
      await edit();
    } catch (error) {
      note(error.message, "problem");
      return;
    }
    await act("release");
  };
  return h("div.held-bar", {}, h("p", {}, "Its client waits. Nothing is sent until you let it go."),
    edit ? button("Let go as edited", edited, { class: "primary", data: { action: "release-edited" } }) : null,
    button("Let go as it was", () => act("release"), { data: { action: "release" } }),
    button("End it", () => act("drop"), { class: "danger", data: { action: "drop" } }));
}
