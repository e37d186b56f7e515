// Keep a call as a case of a set.

import { h, button, fill, labelled, note, select } from "../lib/dom.js";
import { get, getBlob, send } from "../lib/api.js";
import { copied } from "../lib/draft.js";
import { expectationForm } from "./expectations.js";

const NEW = "a new file…";

/** Ask for a set, a name and expectations, and save. */
export async function saveAsCase(call, draft, setup) {
  const dialog = document.getElementById("dialog");
  let names = [];
  try {
    ({ names } = await get("/sets"));
  } catch (error) {
    note(error.message, "problem");
    return;
  }
  const chosen = { file: names[0] ?? NEW, fresh: "cases.yaml", name: call.row.prompt.slice(0, 60) || "case", expect: copied(draft?.expect?.length ? draft.expect : [{ contains: "" }]) };
  const place = h("div.expectations");
  expectationForm(place, chosen.expect, setup);
  const fresh = labelled("name of the file", h("input", { type: "text", value: chosen.fresh, oninput: (event) => { chosen.fresh = event.target.value; } }), `.yaml or .jsonl, in the folder ${setup.sets.split(/[\\/]/).at(-1)}`);
  fresh.hidden = chosen.file !== NEW;
  const problem = h("p.problem", { role: "alert" });
  const save = async () => {
    try {
      const file = chosen.file === NEW ? chosen.fresh : chosen.file;
      const set = names.includes(file) ? (await get(`/sets/${encodeURIComponent(file)}`)).set : { cases: [] };
      set.cases.push(await caseOf(call, draft, chosen));
      note((await send("PUT", `/sets/${encodeURIComponent(file)}`, { set })).done);
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  fill(dialog, h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); save(); } },
    h("h2", { id: "dialog-title" }, "Save as a case"),
    labelled("set", select([...names, NEW], chosen.file, (file) => { chosen.file = file; fresh.hidden = file !== NEW; })), fresh,
    labelled("name of the case", h("input", { type: "text", value: chosen.name, oninput: (event) => { chosen.name = event.target.value; } })),
    h("h3", {}, "The answer is expected to"), place, problem,
    h("div.buttons", {}, h("button.primary", { type: "submit", data: { action: "confirm" } }, "Save"), button("Cancel", () => dialog.close()))));
  dialog.showModal();
}

async function caseOf(call, draft, chosen) {
  const expect = chosen.expect.filter((each) => Object.values(each)[0] !== "");
  const written = { name: chosen.name, operation: call.operation };
  if (draft && !JSON.stringify(draft.body).includes('"$kept"')) {
    const { model, ...body } = draft.body;
    return { ...written, body, variables: draft.variables, expect };
  }
  const { model, ...body } = JSON.parse(await (await getBlob(`/calls/${call.id}/part?pointer=`)).text());
  return { ...written, body, expect };
}
