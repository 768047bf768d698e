// Read JSON [{messages, text, system}] from a file, print {labels, us}: what a keyword router says of each.
// node keywords.mjs llmrouter|clawrouter PACKAGE_FOLDER FILE
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [router, folder, file] = process.argv.slice(2);
const requests = JSON.parse(readFileSync(file, 'utf8'));
const load = (path) => import(pathToFileURL(join(folder, path)).href);

async function llmrouter() {
  const { classifyPrompt } = await load('dist/src/router/classify.js');
  return ({ messages }) => classifyPrompt({ model: 'llmrouter/auto', messages }).category;
}

// Its tiers are levels of effort. REASONING is reasoning, SIMPLE is simple; the levels between them stand for
// coding, the reading that treats it best.
async function clawrouter() {
  const main = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).main;
  const { route, DEFAULT_ROUTING_CONFIG: config } = await load(main);
  const modelPricing = new Map();
  const label = { SIMPLE: 'simple', MEDIUM: 'coding', COMPLEX: 'coding', REASONING: 'reasoning' };
  return ({ text, system }) => label[route(text, system, 4096, { config, modelPricing }).tier];
}

const classify = await { llmrouter, clawrouter }[router]();
requests.slice(0, 500).forEach(classify);
const began = process.hrtime.bigint();
const labels = requests.map(classify);
const us = Number(process.hrtime.bigint() - began) / 1e3 / requests.length;
process.stdout.write(JSON.stringify({ labels, us }));
