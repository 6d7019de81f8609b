// Exit 0 when the server answers. With OPENCODE_RESTART_AFTER=4 the fourth failure in a row ends every process of the
// container, so that its restart policy starts it anew: a server that stopped answering does not come back by itself.
// That needs an init as process 1 (docker run --init).
import { readFileSync, rmSync, writeFileSync } from "node:fs";

const FAILURES = "/tmp/health-failures";
const user = process.env.OPENCODE_SERVER_USERNAME || "opencode";
const credentials = Buffer.from(`${user}:${process.env.OPENCODE_SERVER_PASSWORD}`).toString("base64");

try {
  const answer = await fetch(`http://127.0.0.1:${process.env.PORT || 4096}/global/health`, {
    headers: { authorization: `Basic ${credentials}` },
    signal: AbortSignal.timeout(8000),
  });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  rmSync(FAILURES, { force: true });
} catch (error) {
  const failures = countFailure();
  console.error(`${failures} in a row: ${error.message}`);
  if (failures === Number(process.env.OPENCODE_RESTART_AFTER || 0)) {
    rmSync(FAILURES, { force: true });
    process.kill(-1, "SIGKILL");
  }
  process.exit(1);
}

function countFailure() {
  let before = 0;
  try {
    before = Number(readFileSync(FAILURES, "utf8"));
  } catch {
    // the first one
  }
  writeFileSync(FAILURES, String(before + 1));
  return before + 1;
}
