// The OpenAI SDK over a fetch that pays by x402; task: {url (up to /v1), key, body, schemes, rpc?, retries?}.
import { wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import OpenAI from "openai";
import { privateKeyToAccount } from "viem/accounts";
import { noted, sent, task } from "./wire.mjs";

const account = privateKeyToAccount(task.key);
const options = task.rpc ? { rpcUrl: task.rpc } : undefined;
const known = { exact: ExactEvmScheme, upto: UptoEvmScheme };
const schemes = task.schemes.map((name) => ({ network: "eip155:*", client: new known[name](account, options) }));
// A wallet stands in for the key: the header that the SDK would make of an empty one is taken out.
const paying = wrapFetchWithPaymentFromConfig(noted, { schemes });
const said = { status: 0, headers: {}, body: "", error: null };
const note = async (input, init) => {
  const headers = new Headers(init?.headers);
  headers.delete("authorization");
  const answer = await paying(input, { ...init, headers });
  said.status = answer.status;
  said.headers = Object.fromEntries(answer.headers);
  return answer;
};
try {
  const client = new OpenAI({ apiKey: "none", baseURL: task.url, fetch: note, maxRetries: task.retries ?? 2 });
  const answer = await client.chat.completions.create(task.body);
  if (task.body.stream) for await (const chunk of answer) said.body += chunk.choices[0]?.delta?.content ?? "";
  else said.body = answer.choices[0].message.content;
} catch (fault) {
  said.error = String(fault?.stack ?? fault);
}
process.stdout.write(JSON.stringify({ ...said, sent }) + "\n");
