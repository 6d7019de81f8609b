// Which tools a model may call, with which arguments. What is not listed is refused, for sub-agents too, whatever the
// permissions of their agents say: oh-my-opencode gives some agents more than the configuration does.
//
// On a shared server organizations may work in one directory (directories.ts). There a model reaches the files of its own
// organization's folder, its own session's sub-agents, and nothing of the network. On a dedicated server it has a shell.
import { mkdir, realpath } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, relative, resolve } from "node:path";
import type { ServerKind } from "./settings.ts";
import type { Owner } from "./sessions.ts";

export interface Call {
  readonly tool: string;
  readonly sessionID: string;
  /** Changed in place: paths become those of the organization's folder. */
  readonly args: Record<string, unknown>;
}

export interface Surroundings {
  readonly kind: ServerKind;
  readonly directory: string;
  owner(sessionID: string): Promise<Owner | null>;
}

type Check = (value: unknown, call: Call, around: Surroundings) => Promise<unknown> | unknown;
type Arguments = Readonly<Record<string, Check>>;

/** What a call asked for is not its session's to have: refused, and told to Nubabel, whose audit log has it. */
export class BoundaryError extends Error {}

const ORGANIZATIONS = "organizations";

const anything: Check = (value) => value;

const DELEGATION: Arguments = {
  description: anything,
  prompt: anything,
  category: anything,
  subagent_type: anything,
  load_skills: anything,
  run_in_background: foregroundOnly,
  task_id: ofOwnSession,
};

const ON_EVERY_SERVER: Readonly<Record<string, Arguments>> = {
  task: DELEGATION,
  skill: { name: skillName, user_message: anything },
  todowrite: { todos: anything },
  nubabel_mcp_list: {},
  nubabel_mcp_invoke: { provider: anything, toolName: anything, args: anything },
  // What OpenCode makes of a call that it cannot read; it does nothing but say so.
  invalid: { tool: anything, error: anything },
};

const ON_SHARED_SERVERS: Readonly<Record<string, Arguments>> = {
  ...ON_EVERY_SERVER,
  read: { filePath: ownPath, offset: anything, limit: anything },
  write: { filePath: ownPath, content: anything },
  edit: { filePath: ownPath, oldString: anything, newString: anything, replaceAll: anything },
  glob: { path: ownFolder, pattern: relativePattern },
  grep: {
    path: ownFolder,
    pattern: anything,
    include: relativePattern,
    output_mode: anything,
    head_limit: anything,
  },
};

// A shell, and the network.
const DEDICATED_ONLY = ["bash", "webfetch"];

/** null: any arguments. The files, the shell and the network of a dedicated server are its organization's own. */
const ON_DEDICATED_SERVERS: Readonly<Record<string, Arguments | null>> = {
  ...ON_EVERY_SERVER,
  ...Object.fromEntries(["read", "write", "edit", "glob", "grep", ...DEDICATED_ONLY].map((tool) => [tool, null])),
};

export function allowedTools(kind: ServerKind): readonly string[] {
  return Object.keys(kind === "shared" ? ON_SHARED_SERVERS : ON_DEDICATED_SERVERS);
}

/** What the configuration denies and this kind of server has all the same. */
export function openedTools(kind: ServerKind): readonly string[] {
  return kind === "dedicated" ? DEDICATED_ONLY : [];
}

/** Throws an Error that tells the model why, a BoundaryError for what is not to be had here at all; else the call may go on with the arguments as they are then. */
export async function admit(call: Call, around: Surroundings): Promise<void> {
  const tools = around.kind === "shared" ? ON_SHARED_SERVERS : ON_DEDICATED_SERVERS;
  const checks = Object.hasOwn(tools, call.tool) ? tools[call.tool] : undefined;
  if (checks === undefined) throw new BoundaryError(`${call.tool} is not available on this server`);
  if (checks === null) return;
  for (const [name, value] of Object.entries(call.args)) {
    if (!Object.hasOwn(checks, name) && !isAbsent(value)) {
      throw new BoundaryError(`${call.tool}: the argument ${name} is not available on this server`);
    }
  }
  for (const [name, check] of Object.entries(checks)) {
    const value = await check(call.args[name], call, around);
    if (value !== undefined) call.args[name] = value;
  }
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null || value === "";
}

// A run ends when its session is idle. A background task would wake the session again after that, and its answer would
// find nobody waiting. The model repeats the call in the foreground.
function foregroundOnly(value: unknown, call: Call): unknown {
  if (value) throw new Error(`${call.tool}: run_in_background is not available here; call it again with run_in_background=false`);
  return value;
}

/** To go on with a sub-agent's session: one of the same conversation. Session ids are no secret. */
async function ofOwnSession(value: unknown, call: Call, around: Surroundings): Promise<unknown> {
  if (isAbsent(value)) return undefined;
  const refused = new BoundaryError(`${call.tool}: there is no such task in this conversation`);
  if (typeof value !== "string" || !/^ses_\w+$/.test(value)) throw refused;
  const mine = await around.owner(call.sessionID);
  const its = await around.owner(value).catch(() => null);
  if (mine === null || its?.root !== mine.root || value === mine.root) throw refused;
  return value;
}

function skillName(value: unknown, call: Call): unknown {
  if (typeof value === "string" && /^[\w-]+(?:[/:][\w-]+)*$/.test(value)) return value;
  throw new BoundaryError(`${call.tool}: not the name of a skill`);
}

function relativePattern(value: unknown, call: Call): unknown {
  if (isAbsent(value)) return undefined;
  if (typeof value !== "string" || /^[~/\\!]|[{,][~/\\]|\.\./.test(value)) {
    throw new BoundaryError(`${call.tool}: the pattern must stay inside the folder; leave out a leading / and ..`);
  }
  return value;
}

async function ownPath(value: unknown, call: Call, around: Surroundings): Promise<unknown> {
  if (typeof value !== "string" || !value) throw new Error(`${call.tool}: a path is needed`);
  const folder = await folderOf(call, around);
  const path = resolve(folder, value);
  if (value.startsWith("~") || !isInside(folder, await resolved(path))) {
    throw new BoundaryError(`${call.tool}: only files in ${folder} are available; give a path relative to it`);
  }
  return path;
}

async function ownFolder(value: unknown, call: Call, around: Surroundings): Promise<unknown> {
  return isAbsent(value) ? folderOf(call, around) : ownPath(value, call, around);
}

async function folderOf(call: Call, around: Surroundings): Promise<string> {
  const owner = await around.owner(call.sessionID);
  if (owner === null) throw new Error(`${call.tool}: this session belongs to no organization and has no files`);
  const folder = join(await realpath(around.directory), ORGANIZATIONS, owner.organization);
  await mkdir(folder, { recursive: true });
  return realpath(folder);
}

/** Where the path really leads: links are followed as far as it exists. */
async function resolved(path: string): Promise<string> {
  const normal = resolve(path);
  try {
    return await realpath(normal);
  } catch {
    const parent = dirname(normal);
    return parent === normal ? normal : join(await resolved(parent), basename(normal));
  }
}

function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way === "" || (!way.startsWith("..") && !isAbsolute(way));
}
