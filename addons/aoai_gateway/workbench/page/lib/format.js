// Numbers and times, as people read them.

export const count = (value) => (value == null ? "–" : Math.round(value).toLocaleString("en-GB"));

/** Milliseconds. */
export function duration(ms) {
  if (ms == null) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** Money in the currency of `prices`, with as many digits as it takes. */
export function cost(value) {
  if (value == null) return "–";
  if (value === 0) return "0";
  return value >= 1 ? value.toFixed(2) : value.toPrecision(2).replace(/e.*$/, "") && value.toFixed(value < 0.001 ? 6 : 4);
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

export function bytes(value) {
  if (value < 1000) return `${value} bytes`;
  return value < 999_950 ? `${(value / 1000).toFixed(1)} KB` : `${(value / 1e6).toFixed(1)} MB`;
}

export function plural(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

/** As many names as a line takes; an ellipsis for the rest. */
export function names(all, longest = 200) {
  const line = all.join(", ");
  return line.length <= longest ? line : `${line.slice(0, longest).replace(/,[^,]*$/, "")}, …`;
}

/** Two whole numbers from least to most; one, if they are the same. */
export function span(least, most) {
  return least === most ? count(least) : `${count(least)} to ${count(most)}`;
}
