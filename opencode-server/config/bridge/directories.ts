// An organization's own directory on a shared server: `directories/<id>` below the one that the server works in. OpenCode
// makes no directories, and remembers that one was missing; so the plugin makes it, which is loaded before anything looks.
// The files that models write lie in a folder below it (doors.ts): in itself they would be settings and plugins of OpenCode.
//
// That the folder `directories` is there tells Nubabel that this server does so. Whoever has `deleted/<id>` loaded has
// `directories/<id>` deleted with all that is in it, for good: that empty folder stays, and whatever still loads the other
// one does not make it again. (Plugins call their server for a while after a directory was loaded, which loads it anew.)
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

const OWN = "directories";
const DELETED = "deleted";
const ID = /^org_[A-Za-z0-9_]{1,76}$/;

/** What is to be done when OpenCode loads this directory. Only its name decides: nothing else is made or deleted. */
export async function tendDirectory(root: string, directory: string): Promise<void> {
  if (directory === root) await mkdir(join(root, OWN), { recursive: true });
  const own = organizationIn(root, OWN, directory);
  if (own && !existsSync(join(root, DELETED, own))) await mkdir(directory, { recursive: true });
  const deleted = organizationIn(root, DELETED, directory);
  if (!deleted) return;
  await mkdir(directory, { recursive: true });
  await rm(join(root, OWN, deleted), { recursive: true, force: true });
}

function organizationIn(root: string, kind: string, directory: string): string | null {
  const folder = join(root, kind, "/");
  const name = directory.startsWith(folder) ? directory.slice(folder.length) : "";
  return ID.test(name) ? name : null;
}
