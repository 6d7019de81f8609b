// The tools with which an agent uses its organization's connections. Nubabel makes the call with the tenant's
// credentials; only the result comes here.
import { tool, type ToolContext, type ToolDefinition } from "@opencode-ai/plugin";
import { NoAnswerError, type Answer, type Endpoint } from "./endpoint.ts";
import type { Sessions } from "./sessions.ts";

// Nubabel's `domain/tool_call_times.py` says what these outlast. What is sent again is the same call: it gets its outcome.
const INVOKE_WAIT_MS = 150_000;
const INVOKE_PATIENCE_MS = 450_000;
const LIST_WAIT_MS = 30_000;
const LIST_PATIENCE_MS = 60_000;
const TRIES = 6; // with the waits between them: longer than a restart of Nubabel's web
const FIRST_WAIT_BETWEEN_MS = 500; // doubled after each try
const MAX_LIST_CHARACTERS = 60_000;

/** waitMs: for one answer; patienceMs: for all tries. */
interface Patience {
  readonly waitMs: number;
  readonly patienceMs: number;
}

const INVOKE: Patience = { waitMs: INVOKE_WAIT_MS, patienceMs: INVOKE_PATIENCE_MS };
const LIST: Patience = { waitMs: LIST_WAIT_MS, patienceMs: LIST_PATIENCE_MS };

const STOPPED_IN_DOUBT = "stopped; whether the call was carried out is not known";

type Context = Pick<ToolContext, "sessionID" | "messageID" | "abort">;

export interface InvokeArguments {
  provider?: string | undefined;
  toolName: string;
  args?: Record<string, unknown> | undefined;
}

export class OrganizationTools {
  readonly #endpoint: Pick<Endpoint, "post">;
  readonly #sessions: Pick<Sessions, "owner">;

  readonly #firstWaitBetweenMs: number;

  constructor(
    endpoint: Pick<Endpoint, "post">,
    sessions: Pick<Sessions, "owner">,
    firstWaitBetweenMs: number = FIRST_WAIT_BETWEEN_MS,
  ) {
    this.#endpoint = endpoint;
    this.#sessions = sessions;
    this.#firstWaitBetweenMs = firstWaitBetweenMs;
  }

  definitions(): Record<string, ToolDefinition> {
    const schema = tool.schema;
    return {
      nubabel_mcp_list: tool({
        description:
          "List the providers (Notion, Linear, GitHub and the like) that this organization has connected, and the tools of each with their arguments. Call it before nubabel_mcp_invoke.",
        args: {},
        execute: (_, context) => this.list(context),
      }),
      nubabel_mcp_invoke: tool({
        description:
          "Call a tool of one of the organization's connected providers. nubabel_mcp_list tells which there are. Don't repeat a call whose outcome is reported as unknown: it may have been carried out.",
        args: {
          provider: schema.string().optional().describe("Name of the provider; may be left out where only one has the tool"),
          toolName: schema.string().describe("Name of the provider's tool"),
          args: schema.record(schema.string(), schema.unknown()).optional().describe("Arguments of that tool"),
        },
        execute: (args, context) => this.invoke(args, context),
      }),
    };
  }

  /** The result as text. Throws an Error whose message is meant for the agent. */
  async invoke(args: InvokeArguments, context: Context): Promise<string> {
    await this.#mustBeOurs(context.sessionID);
    const answer = await this.#post("/api/sidecar/mcp/invoke", INVOKE, context, {
      session_id: context.sessionID,
      // The same call has the same id when it is sent again: Nubabel's ledger carries it out once.
      call_id: callID(context),
      message_id: context.messageID,
      ...(args.provider ? { provider: args.provider } : {}),
      tool_name: args.toolName,
      arguments: args.args ?? {},
    });
    const { ok, content, structured, error } = fields(answer);
    if (ok !== true) {
      const { code, message } = record(error);
      throw new Error(`${String(code ?? "failed")}: ${String(message ?? "the call failed")}`);
    }
    if (typeof content === "string" && content) return content;
    return structured === undefined ? "(no content)" : JSON.stringify(structured);
  }

  async list(context: Context): Promise<string> {
    await this.#mustBeOurs(context.sessionID);
    const answer = await this.#post("/api/sidecar/mcp/tools", LIST, context, {
      session_id: context.sessionID,
    });
    const { providers } = fields(answer);
    const lines = (Array.isArray(providers) ? providers : []).flatMap((provider: unknown) => linesOf(record(provider)));
    if (lines.length === 0) return "This organization has no connected providers.";
    const text = lines.join("\n");
    return text.length > MAX_LIST_CHARACTERS ? `${text.slice(0, MAX_LIST_CHARACTERS)}\n(more left out)` : text;
  }

  async #mustBeOurs(sessionID: string): Promise<void> {
    if ((await this.#sessions.owner(sessionID)) === null) {
      throw new Error("this session belongs to no organization, so there is no connection to use");
    }
  }

  async #post(path: string, patience: Patience, context: Context, body: unknown): Promise<Answer> {
    const giveUpAt = performance.now() + patience.patienceMs;
    let inDoubt = false; // a try without an answer: its call may have been carried out
    for (let attempt = 1; ; attempt += 1) {
      if (context.abort.aborted) throw new Error(inDoubt ? STOPPED_IN_DOUBT : "stopped before the call was made");
      const between = this.#firstWaitBetweenMs * 2 ** (attempt - 1);
      const timeoutMs = Math.max(1, Math.min(patience.waitMs, giveUpAt - performance.now()));
      let problem: string;
      try {
        const answer = await this.#endpoint.post(path, body, { timeoutMs, signal: context.abort });
        if (answer.status < 500 && answer.status !== 429) return answer;
        problem = `Nubabel is busy or out of order (status ${answer.status})`;
      } catch (error) {
        if (!(error instanceof NoAnswerError)) throw error;
        inDoubt = true;
        if (context.abort.aborted) throw new Error(STOPPED_IN_DOUBT);
        problem = error.message;
      }
      if (attempt === TRIES || performance.now() + between >= giveUpAt) {
        throw new Error(`${problem}; ${inDoubt ? "whether the call was carried out is not known" : "try again later"}`);
      }
      await stoppableWait(between, context.abort);
    }
  }
}

function linesOf(provider: Record<string, unknown>): string[] {
  const tools = Array.isArray(provider["tools"]) ? provider["tools"] : [];
  const { name, error } = provider;
  return [
    `${String(name)}${provider["is_default"] === true ? " (default)" : ""}:`,
    ...(typeof error === "string" ? [`- its tools could not be listed: ${error}`] : []),
    ...tools.map((entry: unknown) => {
      const { name, description, input_schema: schema } = record(entry);
      return `- ${String(name)}: ${String(description ?? "")} arguments: ${JSON.stringify(schema ?? {})}`;
    }),
  ];
}

/** The fields of a 200; anything else becomes an error that says what Nubabel said. */
function fields(answer: Answer): Record<string, unknown> {
  const body = record(answer.body);
  if (answer.status === 200 && answer.body !== undefined) return body;
  const detail = body["detail"] ?? body["title"];
  throw new Error(`Nubabel refused the call (status ${answer.status})${typeof detail === "string" ? `: ${detail}` : ""}`);
}

function callID(context: Context): string {
  // Given by OpenCode 1.18.33, though not in the types of its plugin package.
  const { callID: id } = context as Context & { callID?: string };
  return id ?? context.messageID;
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function stoppableWait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
