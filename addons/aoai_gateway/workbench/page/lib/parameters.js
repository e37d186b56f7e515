// The parameters of each operation: their kinds, their bounds, and which models take them (Azure OpenAI's
// REST reference, its page on reasoning models, and Anthropic's reference). What is not here can be written as JSON.

const number = (least, most, hint) => ({ kind: "number", least, most, hint });
const integer = (least, most, hint) => ({ kind: "integer", least, most, hint });
const one = (...values) => ({ kind: "one", values });
const flag = { kind: "flag" };
const text = { kind: "text" };
const json = { kind: "json" };
/** What a JSON box begins with, where few remember what belongs there. */
const begun = (begin) => ({ kind: "json", begin });

const FORM = { name: "answer", strict: true, schema: { type: "object", properties: { answer: { type: "string" } }, required: ["answer"], additionalProperties: false } };

const SAMPLING = { temperature: number(0, 2), top_p: number(0, 1) };
const PENALTIES = { frequency_penalty: number(-2, 2), presence_penalty: number(-2, 2) };

export const PARAMETERS = {
  "chat.completions": {
    stream: flag, ...SAMPLING, max_completion_tokens: integer(1), max_tokens: integer(1), n: integer(1, 128), seed: integer(), stop: json,
    ...PENALTIES, reasoning_effort: one("none", "minimal", "low", "medium", "high", "xhigh"), verbosity: one("low", "medium", "high"),
    response_format: begun({ type: "json_schema", json_schema: FORM }), tool_choice: json, parallel_tool_calls: flag, logprobs: flag, top_logprobs: integer(0, 20),
    logit_bias: json, user: text, prompt_cache_key: text, stream_options: json, service_tier: one("auto", "default", "priority", "flex"),
    store: flag, metadata: json,
  },
  responses: {
    stream: flag, ...SAMPLING, max_output_tokens: integer(16), reasoning: begun({ effort: "medium" }), text: begun({ format: { type: "json_schema", ...FORM } }), tool_choice: json, parallel_tool_calls: flag,
    max_tool_calls: integer(1), previous_response_id: text, store: flag, truncation: one("auto", "disabled"), background: flag, include: json,
    metadata: json, prompt_cache_key: text, user: text, service_tier: one("auto", "default", "priority", "flex"),
  },
  messages: {
    stream: flag, max_tokens: integer(1), thinking: begun({ type: "enabled", budget_tokens: 1024 }), output_config: json, stop_sequences: json, tool_choice: json, ...SAMPLING,
    top_k: integer(0), metadata: json, service_tier: one("auto", "standard_only"), cache_control: json,
  },
  completions: {
    stream: flag, ...SAMPLING, max_tokens: integer(1), n: integer(1, 128), best_of: integer(1, 20), echo: flag, suffix: text, stop: json,
    ...PENALTIES, logprobs: integer(0, 5), seed: integer(), user: text, logit_bias: json,
  },
  embeddings: { dimensions: integer(1), encoding_format: one("float", "base64"), user: text },
};

/** Members of a body that are edited elsewhere on the page. */
export const CONTENT = ["model", "messages", "input", "prompt", "instructions", "system", "tools", "functions"];

export function isReasoning(model) {
  return /^(o\d|gpt-5|codex)/.test(model ?? "") && !/^gpt-5[\d.]*-chat/.test(model);
}

/**
 * Say what is wrong with a value: `{problem}` keeps it from being sent, `{warning}` does not.
 * @returns {{problem?: string, warning?: string}}
 */
export function check(operation, name, value, model) {
  const rule = PARAMETERS[operation]?.[name];
  if (!rule) return {};
  const problem = kindProblem(rule, value);
  if (problem) return { problem };
  return modelWarning(operation, name, model);
}

function kindProblem(rule, value) {
  if (value === undefined) return "this is no JSON";
  if (value === null) return null;
  if (rule.kind === "flag") return typeof value === "boolean" ? null : "true or false";
  if (rule.kind === "one") return rule.values.includes(value) ? null : `one of ${rule.values.join(", ")}`;
  if (rule.kind === "text") return typeof value === "string" ? null : "a text";
  if (rule.kind === "json") return null;
  if (typeof value !== "number" || Number.isNaN(value)) return "a number";
  if (rule.kind === "integer" && !Number.isInteger(value)) return "a whole number";
  if (rule.least != null && value < rule.least) return `not below ${rule.least}`;
  if (rule.most != null && value > rule.most) return `not above ${rule.most}`;
  return null;
}

function modelWarning(operation, name, model) {
  if (!model) return {};
  if (isReasoning(model)) {
    if (["temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "logit_bias"].includes(name)) {
      return { warning: `${model} is a reasoning model and refuses it` };
    }
    if (operation === "chat.completions" && name === "max_tokens") return { warning: `${model} wants max_completion_tokens instead` };
  } else if (["reasoning_effort", "reasoning", "verbosity"].includes(name)) return { warning: `${model} is no reasoning model and refuses it` };
  return {};
}

/** Read what was typed into a field: a value, `null` for an empty one, `undefined` for what is no value. */
export function typed(rule, text) {
  if (text.trim() === "") return null;
  if (rule.kind === "number" || rule.kind === "integer") {
    const value = Number(text);
    return Number.isNaN(value) ? undefined : value;
  }
  if (rule.kind === "flag") return text === "true";
  if (rule.kind !== "json") return text;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
