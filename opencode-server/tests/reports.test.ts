import assert from "node:assert/strict";
import { test } from "node:test";
import { NoAnswerError, type Answer } from "../config/bridge/endpoint.ts";
import type { ProgressItem, Update } from "../config/bridge/events.ts";
import { LIMITS, Reports, type ReportLimits } from "../config/bridge/reports.ts";

interface Told {
  path: string;
  body: unknown;
}

/** A receiver that answers as `answers` say, then with 200; time passes only by waiting. */
function receiver(answers: (number | "away")[] = [], limits: Partial<ReportLimits> = {}) {
  const told: Told[] = [];
  const waits: number[] = [];
  const said: string[] = [];
  let now = 0;
  const post = async (path: string, body: unknown): Promise<Answer> => {
    told.push({ path, body });
    const answer = answers.shift() ?? 200;
    if (answer === "away") throw new NoAnswerError("nobody there");
    return { status: answer, body: undefined };
  };
  const wait = async (ms: number) => {
    waits.push(ms);
    now += ms;
  };
  const say = (message: string) => void said.push(message);
  const reports = new Reports(post, say, { ...LIMITS, senders: 1, ...limits }, { now: () => now, wait });
  return { reports, told, waits, said };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 5));
const idle = (session_id = "ses_a"): Update => ({ type: "session.idle", session_id });
const tool = (n: number, session_id = "ses_a"): ProgressItem => ({
  type: "tool",
  session_id,
  call_id: `call_${n}`,
  tool: "read",
  status: "running",
});
const calls = (told: Told | undefined) =>
  ((told?.body as { items: ProgressItem[] }).items ?? []).map((item) => (item.type === "tool" ? item.call_id : ""));

test("an update is told", async () => {
  const { reports, told } = receiver();

  reports.update("ses_a", idle());
  await settled();

  assert.deepEqual(told, [{ path: "/api/sidecar/sessions/ses_a/update", body: idle() }]);
});

test("an update is told again until it arrives, with growing pauses", async () => {
  const { reports, told, waits } = receiver(["away", 503, 429]);

  reports.update("ses_a", idle());
  await settled();

  assert.equal(told.length, 4);
  assert.equal(reports.counts.told, 1);
  assert.ok(waits[0] !== undefined && waits[2] !== undefined && waits[2] > waits[0]);
  assert.ok(waits.every((ms) => ms <= LIMITS.maxWaitMs));
});

test("an update that is refused is not told again", async () => {
  const { reports, told } = receiver([403]);

  reports.update("ses_a", idle());
  await settled();

  assert.equal(told.length, 1);
  assert.equal(reports.counts.givenUpUpdates, 1);
});

test("an update is given up when it is old", async () => {
  const { reports, told } = receiver(Array<"away">(1_000).fill("away"));

  reports.update("ses_a", idle());
  await settled();

  assert.ok(told.length < 100);
  assert.equal(reports.counts.givenUpUpdates, 1);
});

test("of several updates of one session the newest is kept", async () => {
  const { reports, told } = receiver(["away"]);

  reports.update("ses_a", idle());
  reports.update("ses_a", { type: "session.error", session_id: "ses_a", error: { name: "E", message: "m" } });
  reports.update("ses_b", idle("ses_b"));
  await settled();

  const types = told.slice(1).map(({ path, body }) => [path.split("/")[4], (body as Update).type]);
  assert.deepEqual(types, [
    ["ses_a", "session.error"],
    ["ses_b", "session.idle"],
  ]);
});

test("what comes while a call is under way goes together", async () => {
  const { reports, told } = receiver();

  for (let n = 0; n < 5; n += 1) reports.progress("ses_a", tool(n));
  await settled();

  assert.deepEqual(told.map(calls), [["call_0"], ["call_1", "call_2", "call_3", "call_4"]]);
});

test("a batch is bounded in items and in bytes", async () => {
  const { reports, told } = receiver([], { batchItems: 3, batchBytes: 100_000 });

  for (let n = 0; n < 6; n += 1) reports.progress("ses_a", tool(n));
  for (let n = 0; n < 3; n += 1) {
    const text = "한".repeat(16_000);
    reports.progress("ses_b", { type: "text", session_id: "ses_b", message_id: "m", part_id: `p${n}`, text });
  }
  await settled();

  const sizes = told.map(({ body }) => (body as { items: unknown[] }).items.length);
  assert.ok(Math.max(...sizes) <= 3);
  assert.ok(told.every(({ body }) => Buffer.byteLength(JSON.stringify(body)) < 100_100));
  assert.equal(sizes.reduce((a, b) => a + b), 9);
});

test("the oldest progress is dropped when there is too much, and counted; updates are kept", async () => {
  const { reports, told } = receiver([], { progressItems: 3 });

  reports.progress("ses_a", tool(0)); // under way
  for (let n = 1; n <= 5; n += 1) reports.progress("ses_a", tool(n));
  for (let n = 0; n < 50; n += 1) reports.update(`ses_${n}`, idle(`ses_${n}`));
  await settled();

  const progress = told.filter(({ path }) => path.endsWith("/progress"));
  assert.deepEqual(progress.map(calls), [["call_0"], ["call_3", "call_4", "call_5"]]);
  assert.equal(reports.counts.droppedProgress, 2);
  assert.equal(told.filter(({ path }) => path.endsWith("/update")).length, 50);
});

test("progress is told twice at most, then dropped and counted", async () => {
  const { reports, told } = receiver(["away", "away"]);

  reports.progress("ses_a", tool(1));
  await settled();

  assert.equal(told.length, 2);
  assert.equal(reports.counts.droppedProgress, 1);
});

test("what is lost is said, once in a while", async () => {
  const { reports, said } = receiver([403, 403, 403]);

  for (const session of ["ses_a", "ses_b", "ses_c"]) reports.update(session, idle(session));
  await settled();

  assert.deepEqual(said, ["not told since the start: 1 ends of runs, 0 items of progress"]);
  assert.equal(reports.counts.givenUpUpdates, 3);
});

test("an update does not wait behind progress", async () => {
  const told: string[] = [];
  const post = (path: string): Promise<Answer> => {
    told.push(path);
    return path.endsWith("/progress") ? new Promise(() => undefined) : Promise.resolve({ status: 200, body: {} });
  };
  const reports = new Reports(post, () => undefined, { ...LIMITS, senders: 1 });

  reports.progress("ses_a", tool(1));
  reports.update("ses_a", idle());
  await settled();

  assert.equal(told.at(-1), "/api/sidecar/sessions/ses_a/update");
});
