// Walks through one family of operations with the openai package, and prints what came back as one line of JSON.
//
//   node families.mjs '{"kind": "openai"|"azure", "baseURL": …, "apiKey": …, "apiVersion": …, "family": …}'
//
// An error ends it with its message, and exit code 1.
import OpenAI, { AzureOpenAI, toFile } from "openai";

const ask = JSON.parse(process.argv[2]);
const clientOf = (deployment) =>
  ask.kind === "azure"
    ? new AzureOpenAI({ endpoint: ask.baseURL, apiKey: ask.apiKey, apiVersion: ask.apiVersion, deployment, maxRetries: 0 })
    : new OpenAI({ baseURL: ask.baseURL, apiKey: ask.apiKey, maxRetries: 0 });
const client = clientOf();
const model = "gpt-4o";
const text = async (answer) => Buffer.from(await answer.arrayBuffer()).toString("latin1");

async function listed(page) {
  const ids = [];
  for await (const each of page) ids.push(each.id);
  return ids;
}

const families = {
  async audio() {
    const spoken = await client.audio.speech.create({ model: "voice", input: "Hello", voice: "alloy" });
    const sound = Buffer.from(await spoken.arrayBuffer());
    const file = () => toFile(sound, "a.wav");
    const heard = await client.audio.transcriptions.create({ model: "whisper", file: await file() });
    const translated = await client.audio.translations.create({ model: "whisper", file: await file() });
    const events = [];
    const stream = await client.audio.transcriptions.create({ model: "whisper", file: await file(), stream: true });
    for await (const event of stream) events.push(event.type);
    return { sound: sound.subarray(0, 4).toString(), heard: heard.text, translated: translated.text, events };
  },

  async images() {
    const made = await client.images.generate({ model: "brush", prompt: "A dot" });
    const image = await toFile(Buffer.from(made.data[0].b64_json, "base64"), "a.png", { type: "image/png" });
    // AzureOpenAI finds no model in a form of this operation: it takes the deployment from the client's options.
    const edited = await clientOf("brush").images.edit({ model: "brush", prompt: "Two dots", image });
    return { made: made.data.length, edited: edited.data.length };
  },

  async files() {
    const file = await client.files.create({ file: await toFile(Buffer.from("abc"), "a.txt"), purpose: "assistants" });
    const content = await text(await client.files.content(file.id));
    const ids = await listed(client.files.list());
    const upload = { bytes: 3, filename: "u.txt", mime_type: "text/plain", purpose: "assistants" };
    const { id } = await client.uploads.create(upload);
    const part = await client.uploads.parts.create(id, { data: await toFile(Buffer.from("xyz"), "p") });
    const done = await client.uploads.complete(id, { part_ids: [part.id] });
    const uploaded = await text(await client.files.content(done.file.id));
    return { content, listed: ids.includes(file.id), uploaded, deleted: (await client.files.delete(file.id)).deleted };
  },

  async batches() {
    const body = { model, messages: [{ role: "user", content: "Hi" }] };
    const line = JSON.stringify({ custom_id: "1", method: "POST", url: "/v1/chat/completions", body });
    const file = await client.files.create({ file: await toFile(Buffer.from(line), "b.jsonl"), purpose: "batch" });
    const how = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
    const batch = await client.batches.create(how);
    return {
      status: (await client.batches.retrieve(batch.id)).status,
      listed: (await listed(client.batches.list())).includes(batch.id),
      cancelled: (await client.batches.cancel(batch.id)).status,
    };
  },

  async stores() {
    const file = await client.files.create({ file: await toFile(Buffer.from("abc"), "a.txt"), purpose: "assistants" });
    const store = await client.vectorStores.create({ name: "store", file_ids: [file.id] });
    await client.vectorStores.files.create(store.id, { file_id: file.id });
    const held = (await listed(client.vectorStores.files.list(store.id))).includes(file.id);
    const box = await client.containers.create({ name: "box" });
    const inside = await client.containers.files.create(box.id, { file: await toFile(Buffer.from("in"), "c.txt") });
    const read = await text(await client.containers.files.content.retrieve(inside.id, { container_id: box.id }));
    await client.containers.delete(box.id);
    return { held, read, deleted: (await client.vectorStores.delete(store.id)).deleted };
  },

  async assistants() {
    const assistant = await client.beta.assistants.create({ model, name: "helper" });
    const thread = await client.beta.threads.create();
    await client.beta.threads.messages.create(thread.id, { role: "user", content: "Hi" });
    const run = await client.beta.threads.runs.create(thread.id, { assistant_id: assistant.id });
    const { status } = await client.beta.threads.runs.retrieve(run.id, { thread_id: thread.id });
    const events = [];
    const stream = await client.beta.threads.runs.create(thread.id, { assistant_id: assistant.id, stream: true });
    for await (const event of stream) events.push(event.event);
    await client.beta.threads.delete(thread.id);
    return { status, last: events.at(-1), deleted: (await client.beta.assistants.delete(assistant.id)).deleted };
  },

  async responses() {
    const first = await client.responses.create({ model, input: "Hello" });
    const second = await client.responses.create({ model, input: "Again", previous_response_id: first.id });
    const conversation = await client.conversations.create({});
    const said = await client.responses.create({ model, input: "Hi", conversation: conversation.id });
    const items = (await client.responses.inputItems.list(second.id)).data.length;
    await client.conversations.delete(conversation.id);
    await client.responses.delete(first.id);
    return { retrieved: (await client.responses.retrieve(second.id)).id === second.id, said: !!said.output_text, items };
  },

  async stored() {
    const messages = [{ role: "user", content: "Hi" }];
    const made = await client.chat.completions.create({ model, messages, store: true });
    const found = await client.chat.completions.retrieve(made.id);
    const ids = await listed(client.chat.completions.list());
    const { deleted } = await client.chat.completions.delete(made.id);
    return { found: found.id === made.id, listed: ids.includes(made.id), deleted };
  },
};

try {
  console.log(JSON.stringify(await families[ask.family]()));
} catch (error) {
  console.log(JSON.stringify({ error: `${error.status} ${error.message}` }));
  process.exitCode = 1;
}
