// Pay by x402 `exact` with @x402/fetch and @x402/evm 2.7.0; task: {url, key, body, headers?}.
import { wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { privateKeyToAccount } from "viem/accounts";
import { init, noted, report, task } from "./wire.mjs";

const schemes = [{ network: "eip155:*", client: new ExactEvmScheme(privateKeyToAccount(task.key)) }];
await report(() => wrapFetchWithPaymentFromConfig(noted, { schemes })(task.url, init));
