// Text as it is, with what cannot be seen made visible: controls, zero-width and direction-changing characters.

const NAMES = new Map([
  [0x00ad, "soft hyphen"], [0x200b, "zero-width space"], [0x200c, "zero-width non-joiner"],
  [0x200e, "left-to-right mark"], [0x200f, "right-to-left mark"],
  [0x202a, "left-to-right embedding"], [0x202b, "right-to-left embedding"], [0x202c, "end of embedding"],
  [0x202d, "left-to-right override"], [0x202e, "right-to-left override"], [0x2060, "word joiner"],
  [0x2066, "left-to-right isolate"], [0x2067, "right-to-left isolate"], [0x2068, "first-strong isolate"],
  [0x2069, "end of isolate"], [0xfeff, "zero-width no-break space"], [0x061c, "Arabic letter mark"],
  [0x2028, "line separator"], [0x2029, "paragraph separator"], [0x1b, "escape"],
]);

// U+200D joins emoji and is left alone between them; lone surrogates and tag characters are shown.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]|[\ud800-\udfff]/gu;

/**
 * Take a text apart: strings, and `{code, name}` for each character that cannot be seen.
 * @returns {Array<string|{code: string, name: string}>}
 */
export function visible(text) {
  const pieces = [];
  let from = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found[0] === "\r" && text[found.index + 1] === "\n") continue;
    if (found.index > from) pieces.push(text.slice(from, found.index));
    const point = found[0].codePointAt(0);
    const code = `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
    pieces.push({ code: point === 0x1b ? "ESC" : code, name: NAMES.get(point) ?? "control character" });
    from = found.index + found[0].length;
  }
  if (from < text.length) pieces.push(text.slice(from));
  return pieces;
}

/** Count what cannot be seen in a text. */
export function hiddenIn(text) {
  return visible(text).filter((piece) => typeof piece !== "string").length;
}
