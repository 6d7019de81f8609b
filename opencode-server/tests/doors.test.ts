import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { BoundaryError, admit, allowedTools, openedTools, type Surroundings } from "../config/bridge/doors.ts";
import { setPermissions } from "../config/bridge/permissions.ts";
import type { ServerKind } from "../config/bridge/settings.ts";

const directory = realpathSync(mkdtempSync(join(tmpdir(), "doors-")));
const mine = join(directory, "organizations", "org_a");
const theirs = join(directory, "organizations", "org_b");
mkdirSync(mine, { recursive: true });
mkdirSync(theirs, { recursive: true });
writeFileSync(join(theirs, "secret.txt"), "theirs");
symlinkSync(theirs, join(mine, "link"));

const ROOTS: Record<string, string> = {
  ses_a: "ses_a",
  ses_a_child: "ses_a",
  ses_a_sibling: "ses_a",
  ses_b: "ses_b",
  ses_b_child: "ses_b",
};

function around(kind: ServerKind): Surroundings {
  return {
    kind,
    directory,
    owner: async (id) => {
      const root = ROOTS[id];
      return root ? { root, organization: root === "ses_a" ? "org_a" : "org_b" } : null;
    },
  };
}

async function admitted(tool: string, args: Record<string, unknown>, kind: ServerKind = "shared", sessionID = "ses_a") {
  await admit({ tool, sessionID, args }, around(kind));
  return args;
}

for (const kind of ["shared", "dedicated"] as const) {
  test(`a ${kind} server refuses tools that are not listed`, async () => {
    const refused = ["session_read", "background_output", "call_omo_agent", "skill_mcp", "look_at", "question", "toString"];
    for (const tool of refused) await assert.rejects(admitted(tool, {}, kind), /not available/);
  });

  test(`a ${kind} server refuses background tasks`, async () => {
    await assert.rejects(admitted("task", { prompt: "p", run_in_background: true }, kind), /run_in_background=false/);
    await admitted("task", { prompt: "p", category: "quick", load_skills: [], run_in_background: false }, kind);
  });

  test(`a task of a ${kind} server goes on in a session of its own conversation only`, async () => {
    await admitted("task", { prompt: "p", task_id: "ses_a_child" }, kind);
    await admitted("task", { prompt: "p", task_id: "ses_a_sibling" }, kind, "ses_a_child");
    await admitted("task", { prompt: "p", task_id: "" }, kind);
    for (const task_id of ["ses_a", "ses_b", "ses_b_child", "ses_unknown", "../x", 7]) {
      await assert.rejects(admitted("task", { prompt: "p", task_id }, kind), /no such task/);
    }
  });
}

test("shell and network are a dedicated server's", async () => {
  await assert.rejects(admitted("bash", { command: "env" }), /not available/);
  await assert.rejects(admitted("webfetch", { url: "http://169.254.169.254/" }), /not available/);
  await admitted("bash", { command: "ls" }, "dedicated");
  await admitted("webfetch", { url: "https://example.org" }, "dedicated");
});

test("what is not to be had here is told apart from what is only asked for in a wrong way", async () => {
  const beyond: [string, Record<string, unknown>][] = [
    ["session_read", {}],
    ["task", { prompt: "p", command: "/start-work" }],
    ["task", { prompt: "p", task_id: "ses_b" }],
    ["read", { filePath: join(theirs, "secret.txt") }],
    ["read", { filePath: "link/secret.txt" }],
    ["glob", { pattern: "../*" }],
    ["skill", { name: "../../etc/passwd" }],
  ];
  for (const [tool, args] of beyond) await assert.rejects(admitted(tool, args), BoundaryError);
  for (const args of [{ prompt: "p", run_in_background: true }]) {
    await assert.rejects(admitted("task", args), (error) => !(error instanceof BoundaryError));
  }
  await assert.rejects(admitted("read", {}), (error) => !(error instanceof BoundaryError));
});

test("an argument that is not listed is refused", async () => {
  await assert.rejects(admitted("task", { prompt: "p", command: "/start-work" }), /argument command/);
  await assert.rejects(admitted("read", { filePath: "a", root: "/" }), /argument root/);
});

test("a relative path is one of the organization's folder", async () => {
  assert.deepEqual(await admitted("read", { filePath: "notes/a.md" }), { filePath: join(mine, "notes/a.md") });
  assert.deepEqual(await admitted("glob", { pattern: "**/*.md" }), { pattern: "**/*.md", path: mine });
  assert.deepEqual(await admitted("grep", { pattern: "x", path: "notes" }), { pattern: "x", path: join(mine, "notes") });
});

test("an absolute path inside the folder stays", async () => {
  const filePath = join(mine, "a.txt");

  assert.deepEqual(await admitted("write", { filePath, content: "" }), { filePath, content: "" });
});

for (const filePath of [
  join(theirs, "secret.txt"),
  "../org_b/secret.txt",
  "link/secret.txt",
  "link/not/there.txt",
  "/etc/passwd",
  "/proc/self/environ",
  directory,
  join(directory, ".opencode", "plugin", "mine.ts"),
  `${mine}-other/x`,
  "",
  "~/.ssh/id_rsa",
  undefined,
  7,
]) {
  test(`no other file is reached: ${String(filePath)}`, async () => {
    for (const tool of ["read", "write", "edit"]) await assert.rejects(admitted(tool, { filePath }));
  });
}

for (const pattern of ["/etc/*", "../**", "a/../../**", "~/*", "{/etc/passwd,x}", "{a,~/.ssh/*}", 7]) {
  test(`no pattern leads out of the folder: ${pattern}`, async () => {
    await assert.rejects(admitted("glob", { pattern }), /inside the folder/);
    await assert.rejects(admitted("grep", { pattern: "x", include: pattern }), /inside the folder/);
  });
}

test("a session of no organization has no files", async () => {
  await assert.rejects(admitted("read", { filePath: "a" }, "shared", "ses_foreign"), /belongs to no organization/);
});

test("a skill is a name", async () => {
  await admitted("skill", { name: "git-master" });
  for (const name of ["../x", "/etc/passwd", "a/../b", "", 7]) {
    await assert.rejects(admitted("skill", { name }), /name of a skill/);
  }
});

test("agents get no permission that the server has not", () => {
  const config = {
    permission: { "*": "deny", bash: "deny" },
    agent: {
      sisyphus: { permission: { question: "allow", task: "allow", "task_*": "allow", bash: "deny", webfetch: "allow" } },
      oracle: { permission: "allow" },
      silent: { permission: "deny" },
      plain: {},
    },
  };

  setPermissions(config as never, allowedTools("shared"), openedTools("shared"));

  assert.deepEqual(config.agent, {
    sisyphus: { permission: { task: "allow", bash: "deny" } },
    oracle: { permission: {} },
    silent: { permission: { "*": "deny" } },
    plain: { permission: {} },
  });
  assert.deepEqual(config.permission, { "*": "deny", bash: "deny" });
});

test("a dedicated server opens the shell, and nothing else of what is closed", () => {
  const config = { permission: { webfetch: "allow", "*": "allow", bash: "deny", question: "deny" } };

  setPermissions(config as never, allowedTools("dedicated"), openedTools("dedicated"));

  assert.deepEqual(config.permission, { "*": "deny", bash: "allow", webfetch: "allow", question: "deny" });
  assert.equal(Object.keys(config.permission)[0], "*");
});
