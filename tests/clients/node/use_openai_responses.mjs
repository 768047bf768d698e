// The Responses API by the OpenAI SDK for Node.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { readFileSync } from "node:fs";

const ask = JSON.parse(process.argv[2]);
const client = (apiKey = ask.key, baseURL = ask.base_url) =>
  new OpenAI({ apiKey, baseURL, maxRetries: 0, timeout: 30_000 });
const respond = (sdk, input, more = {}) => sdk.responses.create({ model: "auto", input, ...more });
const counts = (response) => [response.usage.input_tokens, response.usage.output_tokens];

async function refused(key, model = "auto") {
  try {
    await respond(client(key), "Say hello", { model });
  } catch (error) {
    return [error.constructor.name, error.status];
  }
  return null;
}

const sdk = client();
const told = await respond(sdk, "Say hello");
let stream = "";
const events = sdk.responses.stream({ model: "auto", input: "Say hello again" });
for await (const event of events) {
  if (event.type === "response.output_text.delta") stream += event.delta;
}
const streamed = await events.finalResponse();
const tools = [
  { type: "function", name: "get_weather", parameters: ask.tool_schema, strict: false },
];
const input = [{ role: "user", content: "Use get_weather" }];
const first = await respond(sdk, input, { tools });
const call = first.output.find((item) => item.type === "function_call");
input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: "sunny" });
const after = await respond(sdk, input, { tools });
const image = [
  { type: "input_text", text: "Describe it" },
  { type: "input_image", image_url: ask.image, detail: "auto" },
];
const City = z.object({ name: z.string(), people: z.number().int() });
const parsed = await sdk.responses.parse({
  model: "auto",
  input: "A city",
  text: { format: zodTextFormat(City, "City") },
});
await respond(client(ask.limited_key), "Say hello");
const json = await respond(sdk, "Say hello", { text: { format: { type: "json_object" } } });
const versionOf = (name) =>
  JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url))).version;
console.log(
  JSON.stringify({
    versions: { openai: versionOf("openai") },
    chat: told.output_text,
    usage: counts(told),
    stream,
    stream_usage: counts(streamed),
    tool: [call.name, JSON.parse(call.arguments), after.output_text],
    image: (await respond(sdk, [{ role: "user", content: image }])).output_text,
    json: JSON.parse(json.output_text),
    schema: parsed.output_parsed,
    bare: (await respond(client(ask.key, ask.origin), "Say hello")).output_text,
    errors: {
      401: await refused("sk-wrong"),
      402: await refused(ask.poor_key),
      404: await refused(ask.key, "no/such"),
      429: await refused(ask.limited_key),
    },
  }),
);
