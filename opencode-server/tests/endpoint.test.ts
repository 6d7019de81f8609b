import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { Endpoint, NoAnswerError, signature } from "../config/bridge/endpoint.ts";

const KEY = "nck_key";

interface Received {
  path: string;
  headers: IncomingMessage["headers"];
  body: string;
}

let server: Server;
let endpoint: Endpoint;
const received: Received[] = [];
let answer: (response: ServerResponse) => void = (response) => response.end("{}");

before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    received.push({ path: request.url ?? "", headers: request.headers, body });
    answer(response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  endpoint = new Endpoint({ url: `http://127.0.0.1:${port}/base`, instance: "ins_1", key: KEY });
});

after(() => {
  server.closeAllConnections();
  server.close();
});

test("a signature is made over time, nonce, method, path and body", () => {
  const made = signature(KEY, { timestamp: 7, nonce: "n", method: "POST", path: "/p?q=1", body: "{}" });

  assert.equal(made, `v1=${createHmac("sha256", KEY).update("v1:7:n:POST:/p?q=1:{}").digest("hex")}`);
});

test("a call is signed over what was really sent", async () => {
  answer = (response) => response.end('{"ok": true}');

  const { status, body } = await endpoint.post("/x?y=z", { text: "한국어" }, { timeoutMs: 2_000 });

  const call = received.at(-1);
  assert.ok(call);
  assert.deepEqual([status, body], [200, { ok: true }]);
  assert.equal(call.path, "/base/x?y=z");
  assert.equal(call.headers["x-nubabel-instance"], "ins_1");
  const nonce = String(call.headers["x-nubabel-nonce"]);
  assert.match(nonce, /^[A-Za-z0-9_-]{16,64}$/);
  const timestamp = Number(call.headers["x-nubabel-timestamp"]);
  assert.ok(Math.abs(timestamp - Date.now() / 1000) < 60);
  const parts = { timestamp, nonce, method: "POST", path: call.path, body: call.body };
  assert.equal(call.headers["x-nubabel-signature"], signature(KEY, parts));
  assert.doesNotMatch(JSON.stringify(call), /nck_/);
});

test("each call has a nonce of its own", async () => {
  await Promise.all([1, 2].map((n) => endpoint.post("/n", { n }, { timeoutMs: 2_000 })));

  const [one, two] = received.slice(-2).map((call) => call.headers["x-nubabel-nonce"]);
  assert.notEqual(one, two);
});

test("a redirect is not followed", async () => {
  const calls = received.length;
  answer = (response) => response.writeHead(307, { location: "/elsewhere" }).end();

  const { status } = await endpoint.post("/r", {}, { timeoutMs: 2_000 });

  assert.equal(status, 307);
  assert.equal(received.length, calls + 1);
});

test("what is no JSON is no body", async () => {
  answer = (response) => response.writeHead(502).end("<html>bad gateway</html>");

  assert.deepEqual(await endpoint.post("/h", {}, { timeoutMs: 2_000 }), { status: 502, body: undefined });
});

test("an answer that is too long is none", async () => {
  answer = (response) => response.end(JSON.stringify("x".repeat(5 * 1024 * 1024)));

  await assert.rejects(endpoint.post("/long", {}, { timeoutMs: 5_000 }), NoAnswerError);
});

test("a server that says nothing is given up", async () => {
  answer = () => undefined;

  await assert.rejects(endpoint.post("/slow", {}, { timeoutMs: 50 }), /time limit/);
});

test("a stopped call ends", async () => {
  answer = () => undefined;
  const stop = new AbortController();
  const call = endpoint.post("/slow", {}, { timeoutMs: 60_000, signal: stop.signal });

  stop.abort();

  await assert.rejects(call, NoAnswerError);
});

test("nobody there", async () => {
  const nobody = new Endpoint({ url: "http://127.0.0.1:9", instance: "ins_1", key: KEY });

  await assert.rejects(nobody.post("/x", {}, { timeoutMs: 2_000 }), NoAnswerError);
});
