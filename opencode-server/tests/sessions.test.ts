import assert from "node:assert/strict";
import { test } from "node:test";
import { Sessions, type SessionRecord } from "../config/bridge/sessions.ts";

const METADATA = { organization_id: "org_1", session_id: "ses_ours" };

function sessionsOf(records: Record<string, SessionRecord>, now: () => number = () => 0) {
  const asked: string[] = [];
  const sessions = new Sessions(async (id) => {
    asked.push(id);
    const record = records[id];
    if (!record) throw new Error(`no session ${id}`);
    return record;
  }, now);
  return { sessions, asked };
}

test("a session is its organization's by its metadata", async () => {
  const { sessions } = sessionsOf({ ses_root: { metadata: METADATA } });

  assert.deepEqual(await sessions.owner("ses_root"), { root: "ses_root", organization: "org_1" });
});

test("a sub-agent's session belongs to its root's organization", async () => {
  const { sessions } = sessionsOf({
    ses_root: { metadata: METADATA },
    ses_child: { parentID: "ses_root" },
    ses_grandchild: { parentID: "ses_child", metadata: { organization_id: "org_other", session_id: "ses_x" } },
  });

  assert.deepEqual(await sessions.owner("ses_grandchild"), { root: "ses_root", organization: "org_1" });
});

test("a session is asked for once", async () => {
  const { sessions, asked } = sessionsOf({ ses_root: { metadata: METADATA }, ses_child: { parentID: "ses_root" } });

  await Promise.all([sessions.owner("ses_child"), sessions.owner("ses_child")]);
  await sessions.owner("ses_child");

  assert.deepEqual(asked, ["ses_child", "ses_root"]);
});

for (const [name, metadata] of [
  ["nothing", undefined],
  ["another program's", { tenant: "one" }],
  ["an id that leads elsewhere", { organization_id: "../org_2", session_id: "ses_x" }],
] as const) {
  test(`a session is nobody's of ours whose metadata is ${name}`, async () => {
    const { sessions } = sessionsOf({ ses_root: { metadata } });

    assert.equal(await sessions.owner("ses_root"), null);
  });
}

test("a session that was nobody's may become ours", async () => {
  let now = 0;
  const records: Record<string, SessionRecord> = { ses_root: {} };
  const { sessions } = sessionsOf(records, () => now);
  assert.equal(await sessions.owner("ses_root"), null);

  records["ses_root"] = { metadata: METADATA };
  now = 60_000;

  assert.equal((await sessions.owner("ses_root"))?.organization, "org_1");
});

test("a session that cannot be read is asked for again", async () => {
  const records: Record<string, SessionRecord> = {};
  const { sessions } = sessionsOf(records);
  await assert.rejects(sessions.owner("ses_root"));

  records["ses_root"] = { metadata: METADATA };

  assert.equal((await sessions.owner("ses_root"))?.organization, "org_1");
});

test("parents that go round in a circle belong to nobody", async () => {
  const { sessions } = sessionsOf({ ses_a: { parentID: "ses_b" }, ses_b: { parentID: "ses_a" } });

  assert.equal(await sessions.owner("ses_a"), null);
});

test("what is remembered is bounded", async () => {
  const asked: string[] = [];
  const sessions = new Sessions(async (id) => {
    asked.push(id);
    return { metadata: METADATA };
  });

  for (let n = 0; n <= 10_000; n += 1) await sessions.owner(`ses_${n}`);
  asked.length = 0;
  await sessions.owner("ses_10000");
  await sessions.owner("ses_0");

  assert.deepEqual(asked, ["ses_0"]);
});
