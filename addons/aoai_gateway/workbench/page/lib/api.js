// The server: JSON, and event streams. The key is asked for when it is needed, and kept in this tab only.

import { EventReader } from "./sse.js";
import { ofTab } from "./storage.js";

const KEPT = "workbench-token";
const BASE = "/workbench/api";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Take a token out of the page's address (mitmweb's log has one), so that it is in no history. */
export function takeToken() {
  const url = new URL(location.href);
  const token = url.searchParams.get("token");
  if (!token) return;
  keepKey(token);
  url.searchParams.delete("token");
  history.replaceState(null, "", url);
}

let asking = null;
let ask = null;
let key = null; // of this page, where the browser keeps nothing

const knownKey = () => key ??= ofTab.read(KEPT);

function keepKey(token) {
  key = token;
  ofTab.write(KEPT, token);
}

/** Say how a key is asked for: a function that gives a promise of it. */
export function onKeyNeeded(asker) {
  ask = asker;
}

async function fetched(path, options = {}) {
  for (;;) {
    const token = knownKey();
    const headers = { ...(token ? { authorization: `Bearer ${token}` } : {}), ...options.headers };
    const answer = await fetch(BASE + path, { ...options, headers, cache: "no-store" });
    if (answer.status !== 401 || !ask) return answer;
    asking ??= ask(Boolean(token)).finally(() => { asking = null; });
    keepKey(await asking);
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  let message = `The gateway answered ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* no JSON: the status must do */ }
  throw new ApiError(answer.status, message);
}

export async function get(path) {
  return (await checked(await fetched(path))).json();
}

export async function getBlob(path) {
  return (await checked(await fetched(path))).blob();
}

export async function send(method, path, body = {}, signal = undefined) {
  const headers = { "content-type": "application/json" };
  return (await checked(await fetched(path, { method, headers, body: JSON.stringify(body), signal }))).json();
}

/** Follow an event stream to its end; `take(event, data)` is called for each. */
export async function follow(path, take, signal) {
  const answer = await checked(await fetched(path, { signal }));
  const reader = new EventReader();
  const stream = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await stream.read();
    if (done) return;
    for (const { event, data } of reader.feed(value)) take(event, data);
  }
}
