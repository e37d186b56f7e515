// Drafts that are there again when the page is loaded again: in this tab only, and as long as the tab is open.

import { isLarger } from "./draft.js";
import { ofTab } from "./storage.js";

const NAME = "workbench-draft-";
const MOST = 500_000;

/** Keep a draft, as it is now or, where it is too large for that, not at all: an older one would come back. */
export function keep(key, draft) {
  const { operation, body, client, places, count, variables, expect } = draft;
  const kept = { operation, body, client, places, count, variables, expect };
  if (isLarger(kept, MOST)) ofTab.remove(NAME + key);
  else ofTab.write(NAME + key, JSON.stringify(kept));
}

/** Give what was kept of a draft, which may be nothing. */
export function kept(key, setup) {
  try {
    const found = JSON.parse(ofTab.read(NAME + key) ?? "{}");
    if (!found.body) return {};
    // Where it ran may be gone since.
    const places = found.places.filter((each) => setup.places.includes(each));
    return { ...found, places, client: setup.clients.includes(found.client) ? found.client : setup.clients[0] ?? "" };
  } catch {
    return {}; // no draft of this page's
  }
}

export function forget(key) {
  ofTab.remove(NAME + key);
}
