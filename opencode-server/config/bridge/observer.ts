// From OpenCode's events to reports: only sessions of Nubabel's, each state of a tool once, ends of root sessions only (a
// sub-agent's end is the end of a tool of its parent).
import { progressOf, refusalOf, updateOf, type ProgressItem, type ServerEvent, type Update } from "./events.ts";
import type { Reports } from "./reports.ts";
import type { Sessions } from "./sessions.ts";

const MAX_CALLS = 5_000;

export class Observer {
  readonly #reports: Pick<Reports, "update" | "progress">;
  readonly #sessions: Pick<Sessions, "owner">;
  readonly #statusOfCall = new Map<string, string>();

  constructor(reports: Pick<Reports, "update" | "progress">, sessions: Pick<Sessions, "owner">) {
    this.#reports = reports;
    this.#sessions = sessions;
  }

  /** Returns at once; OpenCode waits for its plugins. */
  see(event: ServerEvent): void {
    const update = updateOf(event);
    if (update) void this.#tellUpdate(update);
    const item = progressOf(event);
    if (item && this.#isNews(item)) void this.#tellProgress(item);
  }

  /** A call was refused at a door. Returns at once; each is told, also where several of a message bear the same id. */
  refused(sessionID: string, callID: string, tool: string, reason: string): void {
    void this.#tellProgress(refusalOf(sessionID, callID, tool, reason));
  }

  async #tellUpdate(update: Update): Promise<void> {
    const root = await this.#rootOf(update.session_id);
    if (root === update.session_id) this.#reports.update(root, update);
  }

  async #tellProgress(item: ProgressItem): Promise<void> {
    const root = await this.#rootOf(item.session_id);
    if (root !== null) this.#reports.progress(root, item);
  }

  /** null also where it cannot be found out: Nubabel will ask the server itself. */
  async #rootOf(sessionID: string): Promise<string | null> {
    try {
      return (await this.#sessions.owner(sessionID))?.root ?? null;
    } catch {
      return null;
    }
  }

  #isNews(item: ProgressItem): boolean {
    if (item.type !== "tool") return true;
    const call = [item.session_id, item.message_id, item.call_id].join(" ");
    if (this.#statusOfCall.get(call) === item.status) return false;
    this.#statusOfCall.delete(call);
    this.#statusOfCall.set(call, item.status);
    if (this.#statusOfCall.size > MAX_CALLS) {
      for (const oldest of this.#statusOfCall.keys()) {
        this.#statusOfCall.delete(oldest);
        break;
      }
    }
    return true;
  }
}
