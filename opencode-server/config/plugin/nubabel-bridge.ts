// The plugin of Nubabel: keeps the doors of doors.ts closed, tells Nubabel what its sessions do, and gives agents the
// tools of their organization. Loaded once for each directory that OpenCode works in; what is sent goes through one queue.
import type { Hooks, PluginInput } from "@opencode-ai/plugin";
import { BoundaryError, admit, allowedTools, openedTools } from "../bridge/doors.ts";
import { tendDirectory } from "../bridge/directories.ts";
import { Endpoint } from "../bridge/endpoint.ts";
import type { ServerEvent } from "../bridge/events.ts";
import { MemoryReports } from "../bridge/memory.ts";
import { Observer } from "../bridge/observer.ts";
import { setPermissions } from "../bridge/permissions.ts";
import { Reports } from "../bridge/reports.ts";
import { Sessions, type SessionRecord } from "../bridge/sessions.ts";
import { commandEnvironment, serverKind, takeBridgeSettings } from "../bridge/settings.ts";
import { OrganizationTools } from "../bridge/tools.ts";

// Of the process, not of a tenant: the key is gone from the environment when a second directory is loaded.
let connection: { endpoint: Endpoint; reports: Reports } | null | undefined;

export const NubabelBridge = async ({ client, directory }: PluginInput): Promise<Hooks> => {
  const kind = serverKind(process.env);
  if (kind === "shared") await tendDirectory(process.cwd(), directory);
  const sessions = new Sessions(async (id) => {
    const { data, error } = await client.session.get({ path: { id } });
    if (!data) throw new Error(`session ${id} cannot be read: ${JSON.stringify(error)}`);
    return data as SessionRecord;
  });
  const owner = (id: string) => sessions.owner(id);
  const bridge = connect();
  const observer = bridge && new Observer(bridge.reports, sessions);
  return {
    config: async (config) => setPermissions(config, allowedTools(kind), openedTools(kind)),
    "tool.execute.before": async ({ tool, sessionID, callID }, output) => {
      output.args ??= {};
      try {
        await admit({ tool, sessionID, args: output.args }, { kind, directory, owner });
      } catch (error) {
        if (error instanceof BoundaryError) observer?.refused(sessionID, callID, tool, error.message);
        throw error;
      }
    },
    "shell.env": async (_, output) => {
      Object.assign(output.env, commandEnvironment(process.env));
    },
    ...(bridge && observer ? bridgeHooks(bridge.endpoint, observer, sessions) : {}),
  };
};

function bridgeHooks(endpoint: Endpoint, observer: Observer, sessions: Sessions): Hooks {
  return {
    tool: new OrganizationTools(endpoint, sessions).definitions(),
    event: async ({ event }) => observer.see(event as ServerEvent),
  };
}

function connect(): { endpoint: Endpoint; reports: Reports } | null {
  if (connection !== undefined) return connection;
  const reading = takeBridgeSettings(process.env);
  if (!reading.on) {
    say(`off, Nubabel is told nothing and agents have no connections: ${reading.reason}`);
    connection = null;
  } else {
    const endpoint = new Endpoint(reading.settings);
    connection = { endpoint, reports: new Reports((...call) => endpoint.post(...call), say) };
    new MemoryReports((...call) => endpoint.post(...call), say).start();
  }
  return connection;
}

function say(message: string): void {
  console.error(`nubabel-bridge: ${message}`);
}
