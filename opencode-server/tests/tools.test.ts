import assert from "node:assert/strict";
import { test } from "node:test";
import { NoAnswerError, type Answer, type Limits } from "../config/bridge/endpoint.ts";
import { OrganizationTools } from "../config/bridge/tools.ts";

type Outcome = Answer | Error;

function tools(...outcomes: Outcome[]) {
  const calls: { path: string; body: Record<string, unknown>; limits: Limits }[] = [];
  const endpoint = {
    post: async (path: string, body: unknown, limits: Limits): Promise<Answer> => {
      calls.push({ path, body: body as Record<string, unknown>, limits });
      const outcome = outcomes.shift();
      if (!outcome) throw new Error("not expected");
      if (outcome instanceof Error) throw outcome;
      return outcome;
    },
  };
  const owner = async (id: string) => (id === "ses_foreign" ? null : { root: "ses_root", organization: "org_1" });
  return { tools: new OrganizationTools(endpoint, { owner }, 1), calls };
}

function context(sessionID = "ses_child") {
  const stop = new AbortController();
  return { sessionID, messageID: "msg_1", callID: "call_1", abort: stop.signal, stop };
}

const ok = (body: unknown, status = 200): Answer => ({ status, body });
const search = { provider: "notion", toolName: "search", args: { query: "q" } };

test("a call names session, call and tool, and gives back the text", async () => {
  const { tools: organization, calls } = tools(ok({ ok: true, content: "found", call_id: "tc_1" }));

  assert.equal(await organization.invoke(search, context()), "found");
  assert.equal(calls[0]?.path, "/api/sidecar/mcp/invoke");
  assert.deepEqual(calls[0]?.body, {
    session_id: "ses_child",
    call_id: "call_1",
    message_id: "msg_1",
    provider: "notion",
    tool_name: "search",
    arguments: { query: "q" },
  });
});

test("a result without text is given as JSON", async () => {
  const { tools: organization } = tools(ok({ ok: true, content: "", structured: { n: 1 } }));

  assert.equal(await organization.invoke({ toolName: "count" }, context()), '{"n":1}');
});

test("a tool's error is what the agent reads", async () => {
  const { tools: organization } = tools(ok({ ok: false, error: { code: "unknown_tool", message: "there is: search" } }));

  await assert.rejects(organization.invoke(search, context()), /unknown_tool: there is: search/);
});

test("a refusal is told with its reason", async () => {
  const { tools: organization, calls } = tools(ok({ title: "Forbidden", detail: "not a session of this server" }, 403));

  await assert.rejects(organization.invoke(search, context()), /403\): not a session of this server/);
  assert.equal(calls.length, 1);
});

test("a call is repeated under the same id when no answer came", async () => {
  const { tools: organization, calls } = tools(
    new NoAnswerError("no answer from Nubabel: closed"),
    ok(undefined, 503),
    ok({ ok: true, content: "done" }),
  );

  assert.equal(await organization.invoke(search, context()), "done");
  assert.deepEqual(new Set(calls.map(({ body }) => body["call_id"])), new Set(["call_1"]));
});

test("without any answer the outcome is said to be unknown", async () => {
  const away = () => new NoAnswerError("no answer from Nubabel: time limit");
  const { tools: organization, calls } = tools(away(), away(), away(), away(), away(), away());

  await assert.rejects(organization.invoke(search, context()), /time limit; whether .* not known/);
  assert.equal(calls.length, 6);
});

test("when Nubabel refuses after a try without an answer the outcome stays unknown", async () => {
  const busy = () => ok(undefined, 503);
  const away = new NoAnswerError("no answer from Nubabel: closed");
  const { tools: organization } = tools(away, busy(), busy(), busy(), busy(), busy());

  await assert.rejects(organization.invoke(search, context()), /status 503\); whether .* not known/);
});

test("when Nubabel always refused, nothing was carried out", async () => {
  const busy = () => ok(undefined, 503);
  const { tools: organization } = tools(busy(), busy(), busy(), busy(), busy(), busy());

  await assert.rejects(organization.invoke(search, context()), /status 503\); try again later/);
});

test("a stopped run makes no further call", async () => {
  const { tools: organization, calls } = tools(new NoAnswerError("no answer from Nubabel: closed"));
  const { stop, ...stopped } = context();
  const call = organization.invoke(search, stopped);

  stop.abort();

  await assert.rejects(call, /stopped/);
  assert.ok(calls.length <= 1);
});

test("every call has a time limit and hears the stop", async () => {
  const { tools: organization, calls } = tools(ok({ providers: [] }));
  const mine = context();

  await organization.list(mine);

  assert.ok(calls[0] && calls[0].limits.timeoutMs > 0);
  assert.equal(calls[0]?.limits.signal, mine.abort);
});

test("the list names providers, tools and arguments", async () => {
  const entry = { name: "search", description: "Find pages", input_schema: { type: "object" } };
  const { tools: organization, calls } = tools(ok({ providers: [{ name: "notion", tools: [entry] }] }));

  const text = await organization.list(context());

  assert.equal(text, 'notion:\n- search: Find pages arguments: {"type":"object"}');
  assert.deepEqual(calls[0]?.body, { session_id: "ses_child" });
});

test("a provider that is out of order is listed with its trouble", async () => {
  const notion = { name: "notion", is_default: true, tools: [], error: "authorize it again" };
  const { tools: organization } = tools(ok({ providers: [notion] }));

  assert.equal(await organization.list(context()), "notion (default):\n- its tools could not be listed: authorize it again");
});

test("an organization without connections is told so", async () => {
  const { tools: organization } = tools(ok({ providers: [] }));

  assert.match(await organization.list(context()), /no connected providers/);
});

test("a session of nobody's makes no call", async () => {
  const { tools: organization, calls } = tools();

  await assert.rejects(organization.invoke(search, context("ses_foreign")), /belongs to no organization/);
  assert.deepEqual(calls, []);
});
