import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { makeOwnDirectory } from "../config/bridge/directories.ts";

function emptyDisk(): string {
  return realpathSync(mkdtempSync(join(tmpdir(), "directories-")));
}

test("an organization's directory is made when it is loaded, as often as that happens", async () => {
  const root = emptyDisk();
  const own = join(root, "directories", "org_a");

  await Promise.all([makeOwnDirectory(root, own), makeOwnDirectory(root, own)]);

  assert.ok(existsSync(own));
});

for (const path of [
  "directories",
  "directories/",
  "directories/org_",
  "directories/org_a/deeper",
  "directories/../org_a",
  "directories/org_a/..",
  "directories/other",
  "organizations/org_a",
  "elsewhere/directories/org_a",
  `directories/org_${"a".repeat(77)}`,
]) {
  test(`nothing is made for ${path.slice(0, 40)}`, async () => {
    const root = emptyDisk();

    await makeOwnDirectory(root, `${root}/${path}`);

    assert.deepEqual(readdirSync(root), []);
  });
}
