// Keep a call as a case of a set.

import { h, button, fill, labelled, note, select } from "../lib/dom.js";
import { get, getBlob, send } from "../lib/api.js";
import { copied } from "../lib/draft.js";
import { expectationForm } from "./expectations.js";

const NEW = "a new file…";

/** Ask for a set, a name and expectations, and save a call of a run; `sent`: the prompt as it was then. */
export async function saveAsCase(call, { sent, expect }, setup) {
  const dialog = document.getElementById("dialog");
  let names = [];
  try {
    ({ names } = await get("/sets"));
  } catch (error) {
    note(error.message, "problem");
    return;
  }
  const chosen = { file: names[0] ?? NEW, fresh: "cases.yaml", name: call.row.prompt.slice(0, 60) || "case", expect: copied(expect?.length ? expect : [{ contains: "" }]) };
  const place = h("div.expectations");
  expectationForm(place, chosen.expect, setup);
  const fresh = labelled("name of the file", h("input", { type: "text", value: chosen.fresh, oninput: (event) => { chosen.fresh = event.target.value; } }), `.yaml or .jsonl, in the folder ${setup.sets.split(/[\\/]/).at(-1)}`);
  fresh.hidden = chosen.file !== NEW;
  const problem = h("p.problem", { role: "alert" });
  const confirm = h("button.primary", { type: "submit", data: { action: "confirm" } }, "Save");
  const busy = (is) => { confirm.disabled = is; confirm.textContent = is ? "Saving…" : "Save"; };
  const save = async () => {
    problem.textContent = "";
    busy(true);
    try {
      const file = chosen.file === NEW ? chosen.fresh : chosen.file;
      note((await send("POST", `/sets/${encodeURIComponent(file)}/cases`, { case: await caseOf(call, sent, chosen) })).done);
      dialog.close();
      // The list of sets may have been opened meanwhile.
      if (location.hash === "#/sets") dispatchEvent(new Event("hashchange"));
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      busy(false);
    }
  };
  fill(dialog, h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); save(); } },
    h("h2", { id: "dialog-title" }, "Save as a case"),
    labelled("set", select([...names, NEW], chosen.file, (file) => { chosen.file = file; fresh.hidden = file !== NEW; })), fresh,
    labelled("name of the case", h("input", { type: "text", value: chosen.name, oninput: (event) => { chosen.name = event.target.value; } })),
    h("h3", {}, "The answer is expected to"), place, problem,
    h("div.buttons", {}, confirm, button("Cancel", () => dialog.close()))));
  dialog.showModal();
}

async function caseOf(call, sent, chosen) {
  const expect = chosen.expect.filter((each) => Object.values(each)[0] !== "");
  // Where the page has only stand-ins, the call has the whole prompt, with its variables put in.
  const whole = JSON.stringify(sent.body).includes('"$kept"')
    ? { body: JSON.parse(await (await getBlob(`/calls/${call.id}/part?pointer=`)).text()) }
    : { body: sent.body, variables: sent.variables };
  const { model, ...body } = whole.body;
  return { name: chosen.name, operation: call.operation, ...whole, body, expect };
}
