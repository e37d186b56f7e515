// Sends one call through the openai package and prints what came back, as one line of JSON.
//
//   node client.mjs '{"kind": "openai"|"azure", "baseURL": …, "apiKey": …, "apiVersion": …,
//                     "call": "chat"|"responses"|"embeddings"|"models", "stream": true|false, "body": {…}}'
//
// Printed: {"text": …, "chunks": n, "usage": …, "data": …}, or {"error": {"status", "code", "message"}} with exit code 1.
import OpenAI, { AzureOpenAI } from "openai";

const ask = JSON.parse(process.argv[2]);
const client =
  ask.kind === "azure"
    ? new AzureOpenAI({ endpoint: ask.baseURL, apiKey: ask.apiKey, apiVersion: ask.apiVersion, maxRetries: 0 })
    : new OpenAI({ baseURL: ask.baseURL, apiKey: ask.apiKey, maxRetries: 0 });

async function chat() {
  if (!ask.stream) {
    const answer = await client.chat.completions.create(ask.body);
    return { text: answer.choices[0].message.content, chunks: 1, usage: answer.usage };
  }
  const result = { text: "", chunks: 0, usage: null };
  for await (const chunk of await client.chat.completions.create({ ...ask.body, stream: true })) {
    result.chunks += 1;
    result.text += chunk.choices[0]?.delta?.content ?? "";
    result.usage = chunk.usage ?? result.usage;
  }
  return result;
}

async function responses() {
  if (!ask.stream) {
    const answer = await client.responses.create(ask.body);
    return { text: answer.output_text, chunks: 1, usage: answer.usage };
  }
  const result = { text: "", chunks: 0, usage: null };
  for await (const event of await client.responses.create({ ...ask.body, stream: true })) {
    result.chunks += 1;
    if (event.type === "response.output_text.delta") result.text += event.delta;
    if (event.type === "response.completed") result.usage = event.response.usage;
  }
  return result;
}

async function embeddings() {
  const answer = await client.embeddings.create(ask.body);
  return { chunks: 1, usage: answer.usage, data: answer.data.map((each) => each.embedding.length) };
}

async function models() {
  const data = [];
  for await (const model of client.models.list()) data.push(model.id);
  return { chunks: 1, data };
}

try {
  console.log(JSON.stringify(await { chat, responses, embeddings, models }[ask.call]()));
} catch (error) {
  const { status, code, message } = error;
  console.log(JSON.stringify({ error: { status, code, message } }));
  process.exitCode = 1;
}
