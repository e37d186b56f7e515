// Where a prompt can be run: deployments, which the gateway serves as for any client, and backends alone.

const EMBEDS = /embed/i;

/**
 * Give the places that fit an operation, in groups with a title.
 *
 * A model that embeds takes no chat, and others embed nothing. Where the configuration does not name a model, the
 * deployment's name tells it. What is chosen already stays in the list.
 */
export function groups(setup, operations, chosen = []) {
  const embeds = (where) => EMBEDS.test(setup.models[where] ?? where.split("@")[0]);
  const wanted = new Set(operations.map((operation) => operation === "embeddings"));
  const fits = (where) => !wanted.size || wanted.has(embeds(where)) || chosen.includes(where);
  const deployments = new Set(setup.deployments);
  return [
    { title: "Deployments", places: setup.places.filter((where) => deployments.has(where) && fits(where)) },
    { title: "One backend alone", places: setup.places.filter((where) => !deployments.has(where) && fits(where)) },
  ].filter((group) => group.places.length);
}
