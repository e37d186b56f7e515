// Where a prompt can be run: deployments, which the gateway serves as for any client, and backends alone.

const EMBEDS = /embed/i;
const MEDIA = /whisper|transcribe|\btts|dall-?e|gpt-image|realtime|sora/i;

/**
 * Give the places that fit an operation, in groups with a title.
 *
 * A model that embeds takes no chat, others embed nothing, and those that hear, speak or draw take neither. Where the
 * configuration does not name a model, the names tell it: the place's own, and that of the deployment which a backend
 * serves. What is chosen already stays in the list.
 */
export function groups(setup, operations, chosen = []) {
  const served = (where) => setup.serves?.[where] ?? "";
  const modelOf = (where) => setup.models[where] ?? setup.models[served(where)] ?? `${where.split("@")[0]} ${served(where)}`;
  const kindOf = (model) => (EMBEDS.test(model) ? "embeds" : MEDIA.test(model) ? "media" : "text");
  const wanted = new Set(operations.map((operation) => (operation === "embeddings" ? "embeds" : "text")));
  const fits = (where) => !wanted.size || wanted.has(kindOf(modelOf(where))) || chosen.includes(where);
  const deployments = new Set(setup.deployments);
  return [
    { title: "Deployments", places: setup.places.filter((where) => deployments.has(where) && fits(where)) },
    { title: "One backend alone", places: setup.places.filter((where) => !deployments.has(where) && fits(where)) },
  ].filter((group) => group.places.length);
}
