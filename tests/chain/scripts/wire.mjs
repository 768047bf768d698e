// What every paying client here shares: the task from standard input, a fetch that notes what was sent, one line out.
import fs from "node:fs";

export const task = JSON.parse(fs.readFileSync(0, "utf8"));
export const sent = [];

// The payment headers of every request, as the client under test wrote them.
export async function noted(input, init) {
  const request = new Request(input, init);
  const names = ["payment-signature", "authorization", "payment-authorization", "x-payment"];
  sent.push(Object.fromEntries(names.filter((name) => request.headers.has(name)).map((name) => [name, request.headers.get(name)])));
  return fetch(request);
}

export const init = {
  method: "POST",
  headers: { "content-type": "application/json", ...task.headers },
  body: JSON.stringify(task.body),
};

export async function report(run) {
  const said = { status: 0, headers: {}, body: "", error: null };
  try {
    const answer = await run();
    said.status = answer.status;
    said.headers = Object.fromEntries(answer.headers);
    said.body = await answer.text();
  } catch (fault) {
    said.error = String(fault?.stack ?? fault);
  }
  process.stdout.write(JSON.stringify({ ...said, sent }) + "\n");
}
