// The permissions of OpenCode's configuration after every plugin had its say: agents may be given less, never more. What
// the model is not offered it need not be refused.
import type { Config } from "@opencode-ai/plugin";

type Rules = Record<string, unknown>;

/** allowed: names of tools. Keys of agents' permissions that are neither allowed nor denied are taken away. */
export function closePermissions(config: Config, allowed: readonly string[]): void {
  const agents = (config.agent ?? {}) as Record<string, { permission?: unknown } | undefined>;
  for (const agent of Object.values(agents)) {
    if (!agent) continue;
    agent.permission = closed(agent.permission, allowed);
  }
}

function closed(permission: unknown, allowed: readonly string[]): Rules {
  if (permission === "deny") return { "*": "deny" };
  const rules = typeof permission === "object" && permission !== null ? (permission as Rules) : {};
  return Object.fromEntries(Object.entries(rules).filter(([name, rule]) => allowed.includes(name) || rule === "deny"));
}
