// The tools with which an agent uses its organization's connections. Nubabel makes the call with the tenant's
// credentials; only the result comes here.
import { tool, type ToolContext, type ToolDefinition } from "@opencode-ai/plugin";
import { NoAnswerError, type Answer, type Endpoint } from "./endpoint.ts";
import type { Sessions } from "./sessions.ts";

const INVOKE_TIMEOUT_MS = 150_000; // above Nubabel's own limit of a call, which explains better what happened
const LIST_TIMEOUT_MS = 30_000;
const TRIES = 3;
const BETWEEN_TRIES_MS = 500;
const MAX_LIST_CHARACTERS = 60_000;

type Context = Pick<ToolContext, "sessionID" | "messageID" | "abort">;

export interface InvokeArguments {
  provider?: string | undefined;
  toolName: string;
  args?: Record<string, unknown> | undefined;
}

export class OrganizationTools {
  readonly #endpoint: Pick<Endpoint, "post">;
  readonly #sessions: Pick<Sessions, "owner">;

  readonly #betweenTriesMs: number;

  constructor(
    endpoint: Pick<Endpoint, "post">,
    sessions: Pick<Sessions, "owner">,
    betweenTriesMs: number = BETWEEN_TRIES_MS,
  ) {
    this.#endpoint = endpoint;
    this.#sessions = sessions;
    this.#betweenTriesMs = betweenTriesMs;
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
    const answer = await this.#post("/api/sidecar/mcp/invoke", INVOKE_TIMEOUT_MS, context, {
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
    const answer = await this.#post("/api/sidecar/mcp/tools", LIST_TIMEOUT_MS, context, {
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

  async #post(path: string, timeoutMs: number, context: Context, body: unknown): Promise<Answer> {
    for (let attempt = 1; ; attempt += 1) {
      if (context.abort.aborted) throw new Error("stopped before the call was made");
      const last = attempt === TRIES;
      try {
        const answer = await this.#endpoint.post(path, body, { timeoutMs, signal: context.abort });
        if (answer.status < 500 && answer.status !== 429) return answer;
        if (last) throw new Error(`Nubabel is busy or out of order (status ${answer.status}); try again later`);
      } catch (error) {
        if (context.abort.aborted) throw new Error("stopped; whether the call was carried out is not known");
        if (!(error instanceof NoAnswerError)) throw error;
        if (last) throw new Error(`${error.message}; whether the call was carried out is not known`);
      }
      await stoppableWait(this.#betweenTriesMs * attempt, context.abort);
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
