// A prompt that is being edited: the request's JSON, and operations on its messages.

const LISTS = { "chat.completions": "messages", responses: "input", completions: "prompt", embeddings: "input", messages: "messages" };

export const ROLES = {
  "chat.completions": ["system", "developer", "user", "assistant", "tool"],
  responses: ["system", "developer", "user", "assistant"],
  messages: ["user", "assistant"],
};

/** Give the member that holds what is asked. */
export const listKey = (operation) => LISTS[operation] ?? "messages";

/** Give a prompt that says nothing yet. */
export function emptyBody(operation, model) {
  const asked = { "chat.completions": { messages: [{ role: "system", content: "" }, { role: "user", content: "" }], stream: true },
    responses: { instructions: "", input: [{ role: "user", content: "" }], stream: true },
    messages: { max_tokens: 1024, system: "", messages: [{ role: "user", content: "" }], stream: true },
    completions: { prompt: "", max_tokens: 200, stream: true }, embeddings: { input: "" } };
  return { model, ...asked[operation] };
}

/** Give the list of messages, made of a single text if there is one; null where there is no list to be. */
export function messages(draft, make = false) {
  const key = listKey(draft.operation);
  const given = draft.body[key];
  if (Array.isArray(given)) return given;
  if (!make || !ROLES[draft.operation]) return null;
  draft.body[key] = given ? [{ role: "user", content: given }] : [];
  return draft.body[key];
}

export function add(draft, at) {
  const list = messages(draft, true);
  if (!list) return;
  const place = Math.min(at, list.length);
  const role = list[place - 1]?.role === "user" ? "assistant" : "user";
  list.splice(place, 0, { role, content: "" });
}

export function duplicate(draft, at) {
  const list = messages(draft);
  list?.splice(at + 1, 0, copied(list[at]));
}

export function remove(draft, at) {
  messages(draft)?.splice(at, 1);
}

export function move(draft, at, by) {
  const list = messages(draft);
  const to = at + by;
  if (!list || to < 0 || to >= list.length) return at;
  list.splice(to, 0, ...list.splice(at, 1));
  return to;
}

/** Change a message's role; what only the former role has is taken away. */
export function setRole(message, role) {
  message.role = role;
  if (role !== "tool") delete message.tool_call_id;
  if (role !== "assistant") delete message.tool_calls;
  if (role === "tool") message.tool_call_id ??= "";
  if (message.content == null) message.content = "";
}

export function addTool(draft) {
  const named = { name: "new_tool", description: "" };
  const schema = { type: "object", properties: {}, required: [] };
  const made = {
    "chat.completions": { type: "function", function: { ...named, parameters: schema } },
    responses: { type: "function", ...named, parameters: schema },
    messages: { ...named, input_schema: schema },
  };
  draft.body.tools = [...(Array.isArray(draft.body.tools) ? draft.body.tools : []), made[draft.operation]];
}

/** Copy a JSON value. */
export const copied = (value) => structuredClone(value);

/** Tell whether a JSON value has more than so many characters, about; a large one is not gone through to its end. */
export function isLarger(value, most) {
  let left = most;
  const waiting = [value];
  while (waiting.length && left >= 0) {
    const each = waiting.pop();
    left -= typeof each === "string" ? each.length + 2 : 4;
    if (Array.isArray(each)) for (const one of each) waiting.push(one);
    else if (each && typeof each === "object") {
      for (const [name, one] of Object.entries(each)) {
        left -= name.length + 2;
        waiting.push(one);
      }
    }
  }
  return left < 0;
}
