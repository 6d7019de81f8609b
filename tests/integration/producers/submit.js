// Submits one request to Nubabel straight through the broker: any Celery producer can, here celery-node.
//
//   BROKER_URL=redis://... KEY_ID=key_... SECRET=nbk_... node submit.js '{"prompt": "Hello", "idempotency_key": "k"}'
//
// Prints the message's id. A message is not an execution yet: ask GET /v1/executions?idempotency_key=... for that.
"use strict";

const { createHmac, randomBytes } = require("node:crypto");
const celery = require("celery-node");

const TASK = "orchestration.submit";
const QUEUE = "orchestration";

/** RFC 8785: names sorted by UTF-16 code units, no spaces; JSON.stringify writes strings and numbers as it wants. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`);
  return `{${members.join(",")}}`;
}

function signed(request, keyId, secret) {
  const unsigned = {
    version: 1,
    request,
    key_id: keyId,
    issued_at: Math.floor(Date.now() / 1000),
    nonce: randomBytes(24).toString("base64url"),
  };
  const signature = createHmac("sha256", secret).update(canonical(unsigned), "utf8").digest("hex");
  return { ...unsigned, signature };
}

async function main() {
  const { BROKER_URL, KEY_ID, SECRET } = process.env;
  // celery-node wants a result backend to connect to; nothing is ever read from it.
  const client = celery.createClient(BROKER_URL, BROKER_URL, QUEUE);
  await client.isReady(); // it publishes without telling whether that worked: connect first, disconnect orderly after
  const sent = client.createTask(TASK).delay(signed(JSON.parse(process.argv[2]), KEY_ID, SECRET));
  await client.isReady();
  await client.disconnect();
  console.log(sent.taskId);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
