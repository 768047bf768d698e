// Pay by MPP evm/charge with mppx; task: {url, key, body, headers?, chain_id, currency, name, version, decimals}.
import { Mppx, evm } from "mppx/client";
import { privateKeyToAccount } from "viem/accounts";
import { init, noted, report, task } from "./wire.mjs";

const method = evm.charge({
  account: privateKeyToAccount(task.key),
  authorization: { name: task.name, version: task.version },
  currencies: [task.currency],
  networks: [task.chain_id],
  decimals: task.decimals,
});
await report(() => Mppx.create({ polyfill: false, fetch: noted, methods: [method] }).fetch(task.url, init));
