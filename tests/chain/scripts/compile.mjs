// Compile the contracts named on the command line; prints {name: runtime code in hex} as JSON.
import fs from "node:fs";
import solc from "solc";

const sources = Object.fromEntries(
  process.argv.slice(2).map((path) => [path.split("/").at(-1), { content: fs.readFileSync(path, "utf8") }]),
);
const output = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: "Solidity",
      sources,
      settings: {
        evmVersion: "cancun",
        viaIR: true,
        optimizer: { enabled: true, runs: 200 },
        metadata: { appendCBOR: false, bytecodeHash: "none" },
        outputSelection: { "*": { "*": ["evm.deployedBytecode.object"] } },
      },
    }),
  ),
);
const faults = (output.errors ?? []).filter((said) => said.severity === "error");
if (faults.length) {
  console.error(faults.map((said) => said.formattedMessage).join("\n"));
  process.exit(1);
}
const runtime = {};
for (const file of Object.values(output.contracts))
  for (const [name, contract] of Object.entries(file)) {
    const code = contract.evm.deployedBytecode.object;
    if (code) runtime[name] = "0x" + code;
  }
console.log(JSON.stringify(runtime, null, 1));
