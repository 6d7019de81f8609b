// An organization's own directory on a shared server: `directories/<id>` below the one that the server works in. OpenCode
// makes no directories, and remembers that one was missing; so the plugin makes it, which is loaded before anything looks.
// The files that models write lie in a folder below it (doors.ts): in itself they would be settings and plugins of OpenCode.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

const OWN = "directories";
const ID = /^org_[A-Za-z0-9_]{1,76}$/;

/** Make it, if that is what the path names. Only the name decides: nothing else is made. */
export async function makeOwnDirectory(root: string, directory: string): Promise<void> {
  const folder = join(root, OWN, "/");
  if (directory.startsWith(folder) && ID.test(directory.slice(folder.length))) await mkdir(directory, { recursive: true });
}
