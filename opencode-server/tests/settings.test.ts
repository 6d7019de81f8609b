import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { commandEnvironment, serverKind, takeBridgeSettings } from "../config/bridge/settings.ts";

const KEY = "nck_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

function environment(changes: Record<string, string | undefined> = {}): Record<string, string | undefined> {
  return {
    NUBABEL_BRIDGE_URL: "http://web:8000/",
    NUBABEL_BRIDGE_INSTANCE: "ins_1",
    NUBABEL_BRIDGE_KEY: KEY,
    ...changes,
  };
}

test("the key is taken out of the environment", () => {
  const given = environment();

  const reading = takeBridgeSettings(given);

  assert.deepEqual(reading, { on: true, settings: { url: "http://web:8000", instance: "ins_1", key: KEY } });
  assert.equal("NUBABEL_BRIDGE_KEY" in given, false);
});

test("the key is taken out even where the other settings don't fit", () => {
  const given = environment({ NUBABEL_BRIDGE_URL: "web:8000" });

  assert.equal(takeBridgeSettings(given).on, false);
  assert.equal("NUBABEL_BRIDGE_KEY" in given, false);
});

test("the key may be in a file", () => {
  const file = join(mkdtempSync(join(tmpdir(), "key-")), "key");
  writeFileSync(file, `${KEY}\n`);

  const reading = takeBridgeSettings(environment({ NUBABEL_BRIDGE_KEY: undefined, NUBABEL_BRIDGE_KEY_FILE: file }));

  assert.equal(reading.on && reading.settings.key, KEY);
});

for (const [name, changes, expected] of [
  ["no url", { NUBABEL_BRIDGE_URL: undefined }, /NUBABEL_BRIDGE_URL/],
  ["no http", { NUBABEL_BRIDGE_URL: "file:///etc" }, /NUBABEL_BRIDGE_URL/],
  ["no instance", { NUBABEL_BRIDGE_INSTANCE: "" }, /NUBABEL_BRIDGE_INSTANCE/],
  ["no key", { NUBABEL_BRIDGE_KEY: undefined }, /NUBABEL_BRIDGE_KEY/],
  ["a key of something else", { NUBABEL_BRIDGE_KEY: "nbt_secret-token" }, /NUBABEL_BRIDGE_KEY/],
  ["no such file", { NUBABEL_BRIDGE_KEY: undefined, NUBABEL_BRIDGE_KEY_FILE: "/nowhere/key" }, /cannot be read/],
] as const) {
  test(`the bridge is off and says why: ${name}`, () => {
    const reading = takeBridgeSettings(environment(changes));

    assert.equal(reading.on, false);
    assert.match(reading.on ? "" : reading.reason, expected);
    assert.doesNotMatch(reading.on ? "" : reading.reason, /secret-token/);
  });
}

test("a server is shared unless it is said to be dedicated", () => {
  assert.equal(serverKind({}), "shared");
  assert.equal(serverKind({ NUBABEL_SERVER_KIND: "Dedicated?" }), "shared");
  assert.equal(serverKind({ NUBABEL_SERVER_KIND: "dedicated" }), "dedicated");
});

test("a command sees neither passwords nor keys", () => {
  const hidden = commandEnvironment({ PATH: "/bin", LC_ALL: "C", OPENCODE_SERVER_PASSWORD: "x", ANTHROPIC_API_KEY: "y" });

  assert.deepEqual(hidden, { OPENCODE_SERVER_PASSWORD: "", ANTHROPIC_API_KEY: "" });
});
