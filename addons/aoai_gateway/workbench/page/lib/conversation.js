// A request's JSON -> the messages of a conversation, under any operation's names.

/** The member beside the messages that instructs the model, where there is one. */
export const SYSTEM = { responses: "instructions", messages: "system" };

/** Claude's blocks that call a tool: the caller's own, one of Anthropic's, one of an MCP server's. */
const CALLS = ["tool_use", "server_tool_use", "mcp_tool_use"];

/**
 * Read the turns of a request.
 * @returns {Array<{role: string, key: string, index: number|null, texts: Array<any>, calls: Array<object>,
 *   answers: string|null, name: string}>}  `texts`: strings, parts and stand-ins; `index`: its place in the
 *   list under `key`, null for a text that is no list
 */
export function turns(operation, body) {
  if (!body || typeof body !== "object") return [];
  const found = [];
  const system = SYSTEM[operation];
  if (system && body[system] != null) {
    const said = body[system];
    found.push(turn(system, system, null, Array.isArray(said) ? said.map(part) : [said]));
  }
  const key = ["messages", "input", "prompt"].find((each) => each in body);
  for (const [name, value] of Object.entries(body)) {
    // Forms have their sounds and images beside the prompt.
    const files = (Array.isArray(value) ? value : [value]).filter((each) => each && typeof each === "object" && "$kept" in each && each.kind !== "data");
    if (name !== key && files.length) found.push(turn(name, name, null, files));
  }
  if (!key) return found;
  const given = body[key];
  if (Array.isArray(given)) given.forEach((each, index) => found.push(read(each, key, index, operation)));
  else found.push(turn(operation === "embeddings" ? "input" : "user", key, null, [given]));
  return found;
}

function turn(role, key, index, texts, more = {}) {
  return { role, key, index, texts, calls: [], answers: null, name: "", ...more };
}

function read(item, key, index, operation) {
  if (!item || typeof item !== "object" || "$kept" in item) return turn(operation === "embeddings" ? "input" : "user", key, index, [item]);
  if (item.type === "function_call" || item.type === "custom_tool_call") {
    return turn("assistant", key, index, [], { calls: [{ id: item.call_id, name: item.name, arguments: item.arguments ?? item.input ?? "" }] });
  }
  if (item.type === "function_call_output" || item.type === "custom_tool_call_output") {
    return turn("tool", key, index, [item.output ?? ""], { answers: item.call_id ?? "" });
  }
  if (item.type === "reasoning") {
    const summary = Array.isArray(item.summary) ? item.summary.map((each) => each?.text ?? "") : [];
    return turn("reasoning", key, index, summary.length ? summary : [{ type: "encrypted reasoning" }]);
  }
  if (!("role" in item) && item.type && item.type !== "message") return turn(String(item.type), key, index, [item]);
  const content = item.content ?? [];
  const texts = typeof content === "string" || !Array.isArray(content) ? [content] : content.flatMap(parts);
  if (item.refusal) texts.push(String(item.refusal));
  const calls = (Array.isArray(item.tool_calls) ? item.tool_calls : []).map((call) => {
    const inner = call?.function ?? call?.custom ?? {};
    return { id: call?.id, name: inner.name ?? "?", arguments: inner.arguments ?? inner.input ?? "" };
  });
  const blocks = Array.isArray(content) ? content.filter((each) => each && typeof each === "object") : [];
  for (const each of blocks.filter((block) => CALLS.includes(block.type))) calls.push({ id: each.id, name: each.name ?? "?", arguments: each.input ?? {} });
  const result = blocks.find((block) => block.type === "tool_result");
  if (item.function_call) calls.push({ id: "", name: item.function_call.name, arguments: item.function_call.arguments ?? "" });
  return turn(String(item.role ?? "?"), key, index, texts.filter((each) => each !== ""), {
    calls, answers: item.tool_call_id ?? result?.tool_use_id ?? null, name: typeof item.name === "string" ? item.name : "",
  });
}

/** Give the parts that a block of content is shown as: calls of tools are shown elsewhere, results hold parts. */
function parts(value) {
  if (CALLS.includes(value?.type)) return [];
  if (value?.type === "tool_result") return Array.isArray(value.content) ? value.content.map(part) : [value.content ?? ""];
  return [part(value)];
}

function part(value) {
  if (!value || typeof value !== "object") return value;
  if (value.type === "thinking") return { type: "thinking", text: typeof value.thinking === "string" ? value.thinking : "" };
  if (value.type === "redacted_thinking") return { type: "thinking", text: "", redacted: true };
  if (value.source && typeof value.source === "object") return source(value.source) ?? value;
  if (typeof value.text === "string" || (value.text && "$kept" in value.text)) return value.text;
  const image = value.image_url?.url ?? value.image_url ?? null;
  if (image) return typeof image === "string" ? { type: "image", address: image } : image;
  const sound = value.input_audio?.data;
  if (sound) return sound;
  const file = value.file?.file_data ?? value.file_data;
  if (file) return file;
  return value;
}

function source(value) {
  if (value.data && typeof value.data === "object") return value.data;
  if (value.type === "text") return value.data;
  return typeof value.url === "string" ? { type: "image", address: value.url } : null;
}

/** Give the class that a role's messages have; a role may be any value. */
export function roleClass(role) {
  if (["system", "developer", "instructions"].includes(role)) return "role-system";
  return `role-${String(role ?? "").replace(/[^a-z]/g, "").slice(0, 20) || "other"}`;
}

/** Pair tool calls with their results: a map from call id to the index of the turn that answers it. */
export function answersById(all) {
  return new Map(all.flatMap((each, place) => (each.answers ? [[each.answers, place]] : [])));
}

/** List a request's tools, those in namespaces too: `{name, description, parameters, tool}`. */
export function tools(body) {
  const listed = [...(Array.isArray(body?.tools) ? body.tools : []), ...(Array.isArray(body?.functions) ? body.functions : [])];
  return listed.flatMap((tool) => {
    const own = tool?.function ?? tool ?? {};
    if (tool?.type === "namespace" && Array.isArray(tool.tools)) {
      return tools({ tools: tool.tools }).map((each) => ({ ...each, name: `${own.name ?? "namespace"}.${each.name}` }));
    }
    return { name: String(own.name ?? tool?.type ?? "tool"), description: String(own.description ?? ""), parameters: own.parameters ?? own.input_schema ?? null, tool };
  });
}
