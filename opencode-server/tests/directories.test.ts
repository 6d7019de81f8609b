import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { tendDirectory } from "../config/bridge/directories.ts";

function emptyDisk(): string {
  return realpathSync(mkdtempSync(join(tmpdir(), "directories-")));
}

function filled(root: string, organization: string): string {
  const own = join(root, "directories", organization);
  mkdirSync(join(own, "organizations"), { recursive: true });
  writeFileSync(join(own, "organizations", "notes.txt"), "kept");
  return own;
}

test("the server's own directory shows that others are made below it", async () => {
  const root = emptyDisk();

  await tendDirectory(root, root);

  assert.deepEqual(readdirSync(root), ["directories"]);
});

test("an organization's directory is made when it is loaded, as often as that happens", async () => {
  const root = emptyDisk();
  const own = join(root, "directories", "org_a");

  await Promise.all([tendDirectory(root, own), tendDirectory(root, own)]);

  assert.ok(existsSync(own));
});

test("one organization's directory is deleted with its files, and no other's, as often as it is asked for", async () => {
  const root = emptyDisk();
  const own = filled(root, "org_a");
  const other = filled(root, "org_b");

  await Promise.all([tendDirectory(root, join(root, "deleted", "org_a")), tendDirectory(root, join(root, "deleted", "org_a"))]);

  assert.ok(!existsSync(own));
  assert.ok(existsSync(join(other, "organizations", "notes.txt")));
});

test("what was deleted is not made again, whatever loads it", async () => {
  const root = emptyDisk();
  const own = filled(root, "org_a");
  await tendDirectory(root, join(root, "deleted", "org_a"));

  await tendDirectory(root, own);

  assert.ok(!existsSync(own));
});

test("what a link in it points to stays", async () => {
  const root = emptyDisk();
  const other = filled(root, "org_b");
  symlinkSync(other, join(filled(root, "org_a"), "link"));

  await tendDirectory(root, join(root, "deleted", "org_a"));

  assert.ok(existsSync(join(other, "organizations", "notes.txt")));
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

    await tendDirectory(root, `${root}/${path}`);

    assert.deepEqual(readdirSync(root), []);
  });
}

for (const path of ["deleted", "deleted/", "deleted/..", "deleted/../directories/org_a", "deleted/org_a/..", "deleted/other"]) {
  test(`nothing is deleted for ${path}`, async () => {
    const root = emptyDisk();
    const own = filled(root, "org_a");
    mkdirSync(join(root, "directories", "other"));

    await tendDirectory(root, `${root}/${path}`);

    assert.ok(existsSync(own));
    assert.ok(existsSync(join(root, "directories", "other")));
  });
}
