// What stands in the place of a long string of a request or an answer: an image, a sound, a file, a pasted book.

import { h, button, nodes } from "../lib/dom.js";
import { getBlob } from "../lib/api.js";
import { plain } from "./richtext.js";

const KEPT = "$kept";
const SHOWN_AT_ONCE = 100_000;

export const isStandIn = (value) => Boolean(value) && typeof value === "object" && typeof value[KEPT] === "string";

/** Show a stand-in; images and sounds are fetched, a text when it is asked for. `of`: request or answer. */
export function standIn(value, callId, of = "request") {
  const address = `/calls/${callId}/part?of=${of}&pointer=${encodeURIComponent(value[KEPT])}`;
  const place = h("div.stand-in", {}, h("span.words", {}, `${value.kind}: ${value.words}`));
  if (!callId) return place;
  if (value.kind === "image") showMedia(place, address, "image/", (src) => h("img", { src, alt: value.words }));
  else if (value.kind === "audio") showMedia(place, address, "audio/", (src) => h("audio", { src, controls: true }));
  else if (value.kind === "text") showText(place, value, address);
  return place;
}

async function showMedia(place, address, kind, make) {
  try {
    const blob = await getBlob(address);
    if (!blob.type.startsWith(kind)) return;
    const shown = make(URL.createObjectURL(blob));
    shown.addEventListener("error", () => shown.remove());
    place.prepend(shown);
  } catch { /* the words say what it is */ }
}

function showText(place, value, address) {
  place.append(plain(value.head));
  let text = null;
  let shown = 0;
  const more = button("Show more", async () => {
    more.disabled = true;
    text ??= await (await getBlob(address)).text();
    if (!shown) place.querySelector(".text").replaceChildren();
    place.querySelector(".text").append(...nodes(text.slice(shown, shown + SHOWN_AT_ONCE)));
    shown += SHOWN_AT_ONCE;
    more.disabled = false;
    if (shown >= text.length) more.remove();
  });
  place.append(more);
}
