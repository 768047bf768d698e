// Pay by x402 with @x402/fetch and @x402/evm; task: {url, key, body, headers?, schemes: ["exact", "upto"], rpc?}.
import { wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { privateKeyToAccount } from "viem/accounts";
import { init, noted, report, task } from "./wire.mjs";

const account = privateKeyToAccount(task.key);
const options = task.rpc ? { rpcUrl: task.rpc } : undefined;
const known = { exact: ExactEvmScheme, upto: UptoEvmScheme };
const schemes = task.schemes.map((name) => ({ network: "eip155:*", client: new known[name](account, options) }));
await report(() => wrapFetchWithPaymentFromConfig(noted, { schemes })(task.url, init));
