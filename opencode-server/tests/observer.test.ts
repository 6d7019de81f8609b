import assert from "node:assert/strict";
import { test } from "node:test";
import { progressOf, updateOf, type ProgressItem, type ServerEvent, type Update } from "../config/bridge/events.ts";
import { Observer } from "../config/bridge/observer.ts";

function toolEvent(status: string, sessionID = "ses_root", messageID = "msg_1"): ServerEvent {
  const part = { type: "tool", id: "prt_1", sessionID, messageID, callID: "call_1", tool: "task" };
  return { type: "message.part.updated", properties: { part: { ...part, state: { status, title: "Look it up" } } } };
}

function textEvent(part: Record<string, unknown>): ServerEvent {
  const common = { type: "text", id: "prt_2", sessionID: "ses_root", messageID: "msg_1", text: "Hello" };
  return { type: "message.part.updated", properties: { part: { ...common, ...part } } };
}

async function seen(events: readonly ServerEvent[]) {
  const updates: [string, Update][] = [];
  const items: [string, ProgressItem][] = [];
  const observer = new Observer(
    {
      update: (root, update) => void updates.push([root, update]),
      progress: (root, item) => void items.push([root, item]),
    },
    {
      owner: async (id) => {
        if (id === "ses_broken") throw new Error("cannot be read");
        return id === "ses_foreign" ? null : { root: "ses_root", organization: "org_1" };
      },
    },
  );
  for (const event of events) observer.see(event);
  await new Promise((resolve) => setImmediate(resolve));
  return { updates, items };
}

test("a refused call is told with the root of its session, however many there are, and of nobody's session not at all", async () => {
  const items: [string, ProgressItem][] = [];
  const observer = new Observer(
    { update: () => undefined, progress: (root, item) => void items.push([root, item]) },
    { owner: async (id) => (id === "ses_foreign" ? null : { root: "ses_root", organization: "org_1" }) },
  );

  for (const id of ["ses_child", "ses_child", "ses_foreign"]) observer.refused(id, "call_1", "read\0", "not ".repeat(200));
  await new Promise((resolve) => setImmediate(resolve));

  const item = { type: "tool", session_id: "ses_child", call_id: "call_1", tool: "read", status: "error" };
  const refused = "not ".repeat(75);
  assert.deepEqual(items, [["ses_root", { ...item, refused }], ["ses_root", { ...item, refused }]]);
});

test("the end of a run is an update", async () => {
  const { updates } = await seen([{ type: "session.idle", properties: { sessionID: "ses_root" } }]);

  assert.deepEqual(updates, [["ses_root", { type: "session.idle", session_id: "ses_root" }]]);
});

test("an error is told with its message, shortened", () => {
  const error = { name: "APIError", data: { message: "x".repeat(2_000), responseBody: "secret" } };

  const update = updateOf({ type: "session.error", properties: { sessionID: "ses_root", error } });

  assert.deepEqual(update?.error, { name: "APIError", message: "x".repeat(500) });
});

test("a sub-agent's end is no end of the run", async () => {
  const { updates } = await seen([{ type: "session.idle", properties: { sessionID: "ses_child" } }]);

  assert.deepEqual(updates, []);
});

test("a call of a later message under the same id is another call", async () => {
  const states = ["running", "completed"] as const;

  const { items } = await seen([
    ...states.map((status) => toolEvent(status, "ses_root", "msg_1")),
    ...states.map((status) => toolEvent(status, "ses_root", "msg_2")),
    toolEvent("completed", "ses_root", "msg_2"),
  ]);

  assert.deepEqual(
    items.map(([, item]) => item.type === "tool" && [item.message_id, item.status]),
    [["msg_1", "running"], ["msg_1", "completed"], ["msg_2", "running"], ["msg_2", "completed"]],
  );
});

test("a sub-agent's tool is told as work of its root", async () => {
  const { items } = await seen([toolEvent("running", "ses_child")]);

  assert.equal(items[0]?.[0], "ses_root");
  assert.equal(items[0]?.[1].session_id, "ses_child");
});

test("each state of a tool is told once", async () => {
  const states = ["pending", "running", "running", "running", "completed", "completed"];

  const { items } = await seen(states.map((status) => toolEvent(status)));

  const told = items.map(([, item]) => (item.type === "tool" ? item.status : ""));
  assert.deepEqual(told, ["pending", "running", "completed"]);
});

test("a text is told when it is complete, and only the model's", () => {
  assert.equal(progressOf(textEvent({})), null); // a user's, or an unfinished one
  assert.equal(progressOf(textEvent({ synthetic: true, time: { end: 2 } })), null);
  assert.deepEqual(progressOf(textEvent({ time: { start: 1, end: 2 } })), {
    type: "text",
    session_id: "ses_root",
    message_id: "msg_1",
    part_id: "prt_2",
    text: "Hello",
  });
});

test("a text is cut between characters, and tells no NUL", () => {
  const item = progressOf(textEvent({ text: `\0${"x".repeat(15_998)}🙂`, time: { end: 2 } }));

  assert.ok(item?.type === "text" && item.text.isWellFormed());
  assert.ok(!item.text.includes("\0"));
});

test("a tool call in an unknown state, or with an endless id, is not told", () => {
  assert.equal(progressOf(toolEvent("dreaming")), null);
  const part = { type: "tool", sessionID: "ses_root", callID: "c".repeat(500), tool: "read", state: { status: "running" } };
  assert.equal(progressOf({ type: "message.part.updated", properties: { part } }), null);
});

test("sessions that aren't ours, or can't be read, are not told of", async () => {
  const idle = (sessionID: string) => ({ type: "session.idle", properties: { sessionID } });

  const { updates, items } = await seen([
    idle("ses_foreign"),
    idle("ses_broken"),
    toolEvent("running", "ses_foreign"),
    toolEvent("running", "ses_broken"),
  ]);

  assert.deepEqual([updates, items], [[], []]);
});

test("events of another shape are ignored", () => {
  for (const properties of [undefined, null, 7, {}, { part: null }, { part: { type: "tool", sessionID: 1 } }]) {
    assert.equal(progressOf({ type: "message.part.updated", properties }), null);
    assert.equal(updateOf({ type: "session.error", properties }), null);
  }
});
