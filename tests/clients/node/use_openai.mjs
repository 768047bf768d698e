// The OpenAI SDK for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { readFileSync } from "node:fs";

const ask = JSON.parse(process.argv[2]);
const client = (apiKey = ask.key, baseURL = ask.base_url) =>
  new OpenAI({ apiKey, baseURL, maxRetries: 0, timeout: 30_000 });
const said = (content) => [{ role: "user", content }];
const chat = (sdk, content, more = {}) =>
  sdk.chat.completions.create({ model: "auto", messages: said(content), ...more });
const textOf = (answer) => answer.choices[0].message.content;

async function refused(key, model = "auto") {
  try {
    await chat(client(key), "Say hello", { model });
  } catch (error) {
    return [error.constructor.name, error.status];
  }
  return null;
}

const sdk = client();
const told = await chat(sdk, "Say hello");
let stream = "";
let last;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await chat(sdk, "Say hello again", options)) {
  stream += chunk.choices[0]?.delta.content ?? "";
  last = chunk;
}
let called;
const runner = sdk.chat.completions.runTools({
  model: "auto",
  messages: said("Use get_weather"),
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        parameters: ask.tool_schema,
        parse: JSON.parse,
        function: (given) => {
          called = given;
          return "sunny";
        },
      },
    },
  ],
});
const after = await runner.finalContent();
const image = [
  { type: "text", text: "Describe it" },
  { type: "image_url", image_url: { url: ask.image } },
];
const City = z.object({ name: z.string(), people: z.number().int() });
const parsed = await sdk.chat.completions.parse({
  model: "auto",
  messages: said("A city"),
  response_format: zodResponseFormat(City, "City"),
});
await chat(client(ask.limited_key), "Say hello");
const versionOf = (name) =>
  JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url))).version;
console.log(
  JSON.stringify({
    versions: { openai: versionOf("openai") },
    chat: textOf(told),
    usage: [told.usage.prompt_tokens, told.usage.completion_tokens],
    stream,
    stream_usage: [last.usage.prompt_tokens, last.usage.completion_tokens],
    tool: ["get_weather", called, after],
    image: textOf(await chat(sdk, image)),
    json: JSON.parse(textOf(await chat(sdk, "Say hello", { response_format: { type: "json_object" } }))),
    schema: parsed.choices[0].message.parsed,
    bare: textOf(await chat(client(ask.key, ask.origin), "Say hello")),
    errors: {
      401: await refused("sk-wrong"),
      402: await refused(ask.poor_key),
      404: await refused(ask.key, "no/such"),
      429: await refused(ask.limited_key),
    },
  }),
);
