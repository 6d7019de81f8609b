import assert from "node:assert/strict";
import { test } from "node:test";
import { NoAnswerError, type Answer } from "../config/bridge/endpoint.ts";
import { MemoryReports } from "../config/bridge/memory.ts";

interface Told {
  path: string;
  body: { process: string; resident_bytes: number };
}

function reporting(answer: () => Answer, read?: () => number): { reports: MemoryReports; told: Told[]; said: string[] } {
  const told: Told[] = [];
  const said: string[] = [];
  const post = async (path: string, body: unknown): Promise<Answer> => {
    told.push({ path, body: body as Told["body"] });
    return answer();
  };
  return { reports: new MemoryReports(post, (message) => said.push(message), read), told, said };
}

const well = (): Answer => ({ status: 200, body: {} });

test("the process's memory is told, under one name for all of its life", async () => {
  let bytes = 100;
  const { reports, told, said } = reporting(well, () => (bytes += 1));

  await reports.tell();
  await reports.tell();

  assert.deepEqual(told.map((call) => [call.path, call.body.resident_bytes]), [
    ["/api/sidecar/server", 101],
    ["/api/sidecar/server", 102],
  ]);
  assert.equal(new Set(told.map((call) => call.body.process)).size, 1);
  assert.match(told[0]?.body.process ?? "", /^[A-Za-z0-9_-]{8,64}$/);
  assert.deepEqual(said, []);
});

test("another process has another name, and both have memory", async () => {
  const one = reporting(well);
  const other = reporting(well);

  await Promise.all([one.reports.tell(), other.reports.tell()]);

  assert.notEqual(one.told[0]?.body.process, other.told[0]?.body.process);
  assert.ok((one.told[0]?.body.resident_bytes ?? 0) > 1_000_000);
});

test("what is wrong is said once, and again when it is something else", async () => {
  const answers: (() => Answer)[] = [
    () => ({ status: 404, body: undefined }),
    () => ({ status: 404, body: undefined }),
    () => {
      throw new NoAnswerError("no answer from Nubabel: refused");
    },
    well,
    () => ({ status: 404, body: undefined }),
  ];
  const { reports, said } = reporting(() => (answers.shift() ?? well)());

  for (let n = 0; n < 5; n += 1) await reports.tell();

  assert.deepEqual(said, [
    "memory is not told: Nubabel answered 404",
    "memory is not told: no answer from Nubabel: refused",
    "memory is not told: Nubabel answered 404",
  ]);
});
