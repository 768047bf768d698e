// Pay by MPP tempo/charge with mppx 0.5.12; task: {url, key, body, headers?, rpc, chain_id, mode: "pull" or "push"}.
import { Mppx, tempo } from "mppx/client";
import { createClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { tempo as chain } from "viem/chains";
import { init, noted, report, task } from "./wire.mjs";

const getClient = () => createClient({ chain: { ...chain, id: task.chain_id }, transport: http(task.rpc), pollingInterval: 50 });
const method = tempo.charge({ account: privateKeyToAccount(task.key), getClient, mode: task.mode });
await report(() => Mppx.create({ polyfill: false, fetch: noted, methods: [method] }).fetch(task.url, init));
