// The permissions of OpenCode's configuration after every plugin had its say: agents may be given less, never more. What
// the model is not offered it need not be refused.
import type { Config } from "@opencode-ai/plugin";

type Rules = Record<string, unknown>;

/** allowed: names of tools. The configuration's own permissions are a shared server's; another kind is opened here. */
export function setPermissions(config: Config, allowed: readonly string[], opened: readonly string[]): void {
  // The last match decides, and oh-my-opencode puts rules before the one for everything else.
  const { "*": _, ...named } = rulesOf(config.permission);
  const rules: Rules = { "*": "deny", ...named, ...Object.fromEntries(opened.map((tool) => [tool, "allow"])) };
  (config as { permission?: Rules }).permission = rules;
  const agents = (config.agent ?? {}) as Record<string, { permission?: unknown } | undefined>;
  for (const agent of Object.values(agents)) {
    if (!agent) continue;
    agent.permission = closed(agent.permission, allowed);
  }
}

function closed(permission: unknown, allowed: readonly string[]): Rules {
  if (permission === "deny") return { "*": "deny" };
  const kept = Object.entries(rulesOf(permission)).filter(([name, rule]) => allowed.includes(name) || rule === "deny");
  return Object.fromEntries(kept);
}

function rulesOf(permission: unknown): Rules {
  return typeof permission === "object" && permission !== null ? (permission as Rules) : {};
}
