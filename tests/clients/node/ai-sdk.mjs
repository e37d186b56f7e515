// Vercel's AI SDK, through @ai-sdk/azure, @ai-sdk/openai and @ai-sdk/anthropic: prints what came back, as one line of JSON.
//
//   node ai-sdk.mjs URL KEY
import { createAnthropic } from "@ai-sdk/anthropic";
import { createAzure } from "@ai-sdk/azure";
import { createOpenAI } from "@ai-sdk/openai";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, key] = process.argv.slice(2);

async function run(model) {
  const calls = [];
  const weather = tool({
    description: "Tell the weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => (calls.push(city), "sunny"),
  });
  const plain = await generateText({ model, prompt: "Say hello.", maxRetries: 0 });
  let stream = "";
  for await (const piece of streamText({ model, prompt: "Say hello.", maxRetries: 0 }).textStream) stream += piece;
  const tooled = await generateText({
    model,
    prompt: "How is the weather in Oslo?",
    tools: { weather },
    stopWhen: stepCountIs(5),
    maxRetries: 0,
  });
  const city = await generateText({
    model,
    prompt: "Name a city.",
    output: Output.object({ schema: z.object({ name: z.string(), inhabitants: z.number().int() }) }),
    maxRetries: 0,
  });
  return { plain: plain.text, stream, tool: tooled.text, called: calls.length, structured: city.output };
}

const v1 = createAzure({ baseURL: `${url}/openai/v1`, apiKey: key });
const deployments = createAzure({
  baseURL: `${url}/openai`,
  apiKey: key,
  apiVersion: "2024-10-21",
  useDeploymentBasedUrls: true,
});
const openai = createOpenAI({ baseURL: `${url}/openai/v1`, apiKey: key });
const anthropic = createAnthropic({ baseURL: `${url}/anthropic/v1`, apiKey: key });
const { embeddings } = await embedMany({
  model: openai.embedding("text-embedding-3-small"),
  values: ["one", "two"],
  maxRetries: 0,
});
console.log(
  JSON.stringify({
    responses: await run(openai("gpt-4o")),
    chat: await run(openai.chat("gpt-4o")),
    "azure, v1": await run(v1("gpt-4o")),
    "azure, deployments": await run(deployments.chat("gpt-4o")),
    anthropic: await run(anthropic("claude-sonnet-5")),
    embeddings: embeddings.map((each) => each.length),
  }),
);
