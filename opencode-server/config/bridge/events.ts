// OpenCode's events in the words of Nubabel's callbacks; what nobody waits for is null.

export type ProgressItem =
  | {
      readonly type: "tool";
      readonly session_id: string;
      readonly call_id: string;
      readonly tool: string;
      readonly status: string;
      readonly title?: string;
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

/** Text parts only when they are complete, and only the model's: those of a user's message have no end. */
export function progressOf(event: ServerEvent): ProgressItem | null {
  if (event.type !== "message.part.updated") return null;
  const part = record(record(event.properties)["part"]);
  const { id, sessionID: session_id, messageID: message_id, callID: call_id, tool } = part;
  if (typeof session_id !== "string") return null;
  if (part["type"] === "tool" && typeof call_id === "string" && typeof tool === "string") {
    const state = record(part["state"]);
    const title = text(state["title"], MAX_TITLE);
    return { type: "tool", session_id, call_id, tool, status: text(state["status"], 20), ...(title ? { title } : {}) };
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

function text(value: unknown, max: number): string {
  return typeof value === "string" ? value.slice(0, max) : "";
}
