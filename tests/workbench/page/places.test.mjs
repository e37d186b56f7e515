import assert from "node:assert/strict";
import { test } from "node:test";
import { groups } from "../../../addons/aoai_gateway/workbench/page/lib/places.js";

const setup = {
  deployments: ["gpt-4o", "search", "text-embedding-3-small"],
  models: { search: "text-embedding-3-large" },
  places: ["gpt-4o", "search", "text-embedding-3-small", "ptu@sweden", "embed@sweden"],
};
const shown = (...asked) => Object.fromEntries(groups(setup, ...asked).map(({ title, places }) => [title, places]));

test("a chat is not offered to what embeds, by its model or by its name", () => {
  assert.deepEqual(shown(["chat.completions"]), { Deployments: ["gpt-4o"], "One backend alone": ["ptu@sweden"] });
});

test("texts to be embedded are not offered to what chats", () => {
  assert.deepEqual(shown(["embeddings"]), { Deployments: ["search", "text-embedding-3-small"], "One backend alone": ["embed@sweden"] });
});

test("a set with cases of both is offered to all, and so is one without cases", () => {
  assert.deepEqual(shown(["embeddings", "responses"]), shown([]));
  assert.equal(Object.values(shown([])).flat().length, setup.places.length);
});

test("what is chosen stays, and an empty group is left out", () => {
  assert.deepEqual(shown(["embeddings"], ["gpt-4o"]).Deployments, setup.deployments);
  assert.deepEqual(groups({ ...setup, places: setup.deployments }, []).map(({ title }) => title), ["Deployments"]);
});

test("a backend is of the kind of the deployment that it serves, not of its own name alone", () => {
  const serves = { "voice@france": "gpt-realtime", "vectors@france": "search", "ptu@sweden": "gpt-4o", "embed@sweden": "unnamed" };
  const backends = { ...setup, deployments: [], places: Object.keys(serves), serves };
  const offered = (operation) => groups(backends, [operation]).flatMap((group) => group.places);
  assert.deepEqual(offered("chat.completions"), ["ptu@sweden"]);
  assert.deepEqual(offered("embeddings"), ["vectors@france", "embed@sweden"]);
});

test("what hears, speaks or draws is offered no prompt", () => {
  const media = ["whisper", "gpt-4o-transcribe", "tts-1-hd", "gpt-4o-mini-tts", "dall-e-3", "gpt-image-1", "gpt-realtime", "sora-2"];
  const places = [...media, "gpt-4o", "gpt-4o-audio-preview", "attsa"];
  const shown = (operation) => groups({ deployments: places, models: {}, places }, [operation]).flatMap((group) => group.places);
  assert.deepEqual(shown("responses"), ["gpt-4o", "gpt-4o-audio-preview", "attsa"]);
  assert.deepEqual(shown("embeddings"), []);
});
