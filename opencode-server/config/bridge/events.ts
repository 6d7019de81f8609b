// OpenCode's events in the words of Nubabel's callbacks; what nobody waits for is null.

export type ProgressItem =
  | {
      readonly type: "tool";
      readonly session_id: string;
      readonly call_id: string;
      readonly message_id?: string;
      readonly tool: string;
      readonly status: string;
      readonly title?: string;
      /** Why our plugin let the call reach nothing: for the audit log. The call's end is told beside it, as every end. */
      readonly refused?: string;
    }
  | {
      readonly type: "text";
      readonly session_id: string;
      readonly message_id: string;
      readonly part_id: string;
      readonly text: string;
    };

export interface Update {
  readonly type: "session.idle" | "session.error";
  readonly session_id: string;
  readonly error?: { readonly name: string; readonly message: string };
}

export interface ServerEvent {
  readonly type: string;
  readonly properties?: unknown;
}

const MAX_TEXT = 16_000;
const MAX_TITLE = 200;
const MAX_MESSAGE = 500;
const MAX_NAME = 200;
const MAX_REASON = 300;
const STATUSES = new Set(["pending", "running", "completed", "error"]);

export function updateOf(event: ServerEvent): Update | null {
  if (event.type !== "session.idle" && event.type !== "session.error") return null;
  const properties = record(event.properties);
  const session_id = properties["sessionID"];
  if (typeof session_id !== "string") return null; // session.error may lack it
  if (event.type === "session.idle") return { type: "session.idle", session_id };
  const error = record(properties["error"]);
  const name = text(error["name"], MAX_TITLE) || "UnknownError";
  return { type: "session.error", session_id, error: { name, message: text(record(error["data"])["message"], MAX_MESSAGE) } };
}

/** A call that doors.ts refused. reason: ours, though it may name what the model made up. */
export function refusalOf(session_id: string, call_id: string, tool: string, reason: string): ProgressItem {
  const names = { session_id, call_id: text(call_id, MAX_NAME), tool: text(tool, MAX_NAME) };
  return { type: "tool", ...names, status: "error", refused: text(reason, MAX_REASON) };
}

/** Text parts only when they are complete, and only the model's: those of a user's message have no end. */
export function progressOf(event: ServerEvent): ProgressItem | null {
  if (event.type !== "message.part.updated") return null;
  const part = record(record(event.properties)["part"]);
  const { id, sessionID: session_id, messageID: message_id, callID: call_id } = part;
  if (typeof session_id !== "string") return null;
  if (part["type"] === "tool" && typeof call_id === "string") {
    const tool = text(part["tool"], MAX_NAME); // a model may make one up
    const state = record(part["state"]);
    const status = text(state["status"], MAX_NAME);
    if (!tool || call_id.length > MAX_NAME || !STATUSES.has(status)) return null;
    const title = text(state["title"], MAX_TITLE);
    const message = typeof message_id === "string" && message_id.length <= MAX_NAME ? { message_id } : {};
    return { type: "tool", session_id, call_id, ...message, tool, status, ...(title ? { title } : {}) };
  }
  if (part["type"] === "text" && typeof id === "string" && typeof message_id === "string") {
    if (part["synthetic"] || !record(part["time"])["end"]) return null;
    return { type: "text", session_id, message_id, part_id: id, text: text(part["text"], MAX_TEXT) };
  }
  return null;
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

/** Shortened, and without what cannot be stored: half a character at the cut, and NUL. */
function text(value: unknown, max: number): string {
  return typeof value === "string" ? value.slice(0, max).replaceAll("\0", "").toWellFormed() : "";
}
