// The Vercel AI SDK with the provider that PROVIDER names: the one for OpenAI speaks the Responses API.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { readFileSync } from "node:fs";
import { z } from "zod";

const ask = JSON.parse(process.argv[2]);
const own = process.env.PROVIDER === "@ai-sdk/openai";
const provider = (apiKey = ask.key, baseURL = ask.base_url) =>
  own
    ? createOpenAI({ apiKey, baseURL })
    : createOpenAICompatible({
        name: "router",
        apiKey,
        baseURL,
        includeUsage: true,
        supportsStructuredOutputs: true,
      });
const once = { maxRetries: 0 };
const chat = (model, prompt) => generateText({ model, prompt, ...once });

async function refused(key, name = "auto") {
  try {
    await chat(provider(key)(name), "Say hello");
  } catch (error) {
    return [error.name, error.statusCode];
  }
  return null;
}

const auto = provider()("auto");
const told = await chat(auto, "Say hello");
const streaming = streamText({ model: auto, prompt: "Say hello again", ...once });
let stream = "";
for await (const part of streaming.textStream) stream += part;
const streamed = await streaming.usage;
let called;
const after = await generateText({
  model: auto,
  prompt: "Use get_weather",
  ...once,
  stopWhen: stepCountIs(3),
  tools: {
    get_weather: tool({
      description: "Weather of a city",
      inputSchema: jsonSchema(ask.tool_schema),
      execute: (given) => {
        called = given;
        return "sunny";
      },
    }),
  },
});
const content = [
  { type: "text", text: "Describe it" },
  { type: "image", image: ask.image },
];
const seen = await generateText({ model: auto, messages: [{ role: "user", content }], ...once });
const City = z.object({ name: z.string(), people: z.number().int() });
const made = await generateObject({ model: auto, prompt: "A city", schema: City, ...once });
const free = await generateObject({ model: auto, prompt: "Say hello", output: "no-schema", ...once });
await chat(provider(ask.limited_key)("auto"), "Say hello");
const versionOf = (name) =>
  JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url))).version;
console.log(
  JSON.stringify({
    versions: Object.fromEntries(["ai", process.env.PROVIDER].map((name) => [name, versionOf(name)])),
    chat: told.text,
    usage: [told.usage.inputTokens, told.usage.outputTokens],
    stream,
    stream_usage: [streamed.inputTokens, streamed.outputTokens],
    tool: ["get_weather", called, after.text],
    image: seen.text,
    json: free.object,
    schema: made.object,
    bare: (await chat(provider(ask.key, ask.origin)("auto"), "Say hello")).text,
    errors: {
      401: await refused("sk-wrong"),
      402: await refused(ask.poor_key),
      404: await refused(ask.key, "no/such"),
      429: await refused(ask.limited_key),
    },
  }),
);
