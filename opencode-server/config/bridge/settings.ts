// What the bridge needs to know, from the environment. One server, one key: nothing here belongs to a tenant.
import { readFileSync } from "node:fs";

export type ServerKind = "shared" | "dedicated";

export interface BridgeSettings {
  /** Base URL of Nubabel's `web`, without a slash at its end. */
  readonly url: string;
  /** This server's id there, `ins_…`. */
  readonly instance: string;
  /** Its callback key, `nck_…`; signs every call and is never sent. */
  readonly key: string;
}

export type Reading =
  | { readonly on: true; readonly settings: BridgeSettings }
  | { readonly on: false; readonly reason: string };

type Environment = Record<string, string | undefined>;

/** Tools of the model see the environment, so the key is removed from it. Never throws: a server without a bridge works. */
export function takeBridgeSettings(environment: Environment): Reading {
  const inline = environment["NUBABEL_BRIDGE_KEY"];
  delete environment["NUBABEL_BRIDGE_KEY"];
  const url = environment["NUBABEL_BRIDGE_URL"]?.replace(/\/+$/, "");
  const instance = environment["NUBABEL_BRIDGE_INSTANCE"];
  const file = environment["NUBABEL_BRIDGE_KEY_FILE"];
  if (!url && !instance && !inline && !file) return off("NUBABEL_BRIDGE_URL is not set");
  if (!url || !isHttp(url)) return off("NUBABEL_BRIDGE_URL must be the http(s) address of Nubabel's web");
  if (!instance || !/^ins_\w+$/.test(instance)) return off("NUBABEL_BRIDGE_INSTANCE must be this server's id, ins_…");
  let key = inline;
  if (!key && file) {
    try {
      key = readFileSync(file, "utf8");
    } catch {
      return off(`NUBABEL_BRIDGE_KEY_FILE cannot be read: ${file}`);
    }
  }
  key = key?.trim();
  if (!key || !/^nck_[\w-]+$/.test(key)) return off("NUBABEL_BRIDGE_KEY (or its _FILE) must be a callback key, nck_…");
  return { on: true, settings: { url, instance, key } };
}

/** Anything but "dedicated" is shared, the closed kind. */
export function serverKind(environment: Environment): ServerKind {
  return environment["NUBABEL_SERVER_KIND"] === "dedicated" ? "dedicated" : "shared";
}

function off(reason: string): Reading {
  return { on: false, reason };
}

function isHttp(url: string): boolean {
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
}

const FOR_COMMANDS = /^(?:PATH|HOME|LANG|LC_\w+|TERM|TZ|TMPDIR|USER|SHELL|PWD|NODE_EXTRA_CA_CERTS|\w+_PROXY|\w+_proxy)$/;

/** What hides the server's own settings from a command of the model: its password, the providers' keys. */
export function commandEnvironment(environment: Environment): Record<string, string> {
  const hidden = Object.keys(environment).filter((name) => !FOR_COMMANDS.test(name));
  return Object.fromEntries(hidden.map((name) => [name, ""]));
}
