// What Nubabel is told, in the background: bounded, tried again for a while, never in the way of a run.
//
// An idle or error report is kept until it is told or too old: one per session, the newest, so that sessions bound them.
// Progress may be lost: the oldest goes first, and is counted. Whatever is not told, Nubabel finds by asking the server.
import type { ProgressItem, Update } from "./events.ts";
import type { Answer, Limits } from "./endpoint.ts";

export type Post = (path: string, body: unknown, limits: Limits) => Promise<Answer>;

export interface ReportLimits {
  readonly progressItems: number;
  readonly batchItems: number;
  /** Of JSON; the receiver takes 256 KiB. */
  readonly batchBytes: number;
  readonly timeoutMs: number;
  readonly firstWaitMs: number;
  readonly maxWaitMs: number;
  /** An update that could not be told for so long is given up; Nubabel has looked by itself long before. */
  readonly keepUpdatesMs: number;
  readonly senders: number;
  /** What got lost is said so often at most. */
  readonly sayEveryMs: number;
}

export const LIMITS: ReportLimits = {
  progressItems: 1_000,
  batchItems: 100,
  batchBytes: 200_000,
  timeoutMs: 5_000,
  firstWaitMs: 250,
  maxWaitMs: 10_000,
  keepUpdatesMs: 120_000,
  senders: 4,
  sayEveryMs: 60_000,
};

export interface Time {
  now(): number;
  wait(ms: number): Promise<void>;
}

const REAL_TIME: Time = {
  now: Date.now,
  wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};

interface PendingUpdate {
  readonly update: Update;
  readonly since: number;
}

export class Reports {
  /** Since the start: told calls, dropped progress items, updates that were refused or too old. */
  readonly counts = { told: 0, droppedProgress: 0, givenUpUpdates: 0 };

  readonly #post: Post;
  readonly #limits: ReportLimits;
  readonly #time: Time;
  readonly #say: (message: string) => void;
  #saidAt = -Infinity;
  readonly #updates = new Map<string, PendingUpdate>(); // root session -> its newest
  readonly #progress = new Map<string, ProgressItem[]>(); // root session -> items, oldest first
  #progressItems = 0;
  #updateSenders = 0;
  #progressSenders = 0;

  constructor(post: Post, say: (message: string) => void, limits: ReportLimits = LIMITS, time: Time = REAL_TIME) {
    this.#post = post;
    this.#say = say;
    this.#limits = limits;
    this.#time = time;
  }

  /** root: the OpenCode session that Nubabel knows. */
  update(root: string, update: Update): void {
    this.#updates.delete(root);
    this.#updates.set(root, { update, since: this.#time.now() });
    if (this.#updateSenders < this.#limits.senders) void this.#sendUpdates();
  }

  progress(root: string, item: ProgressItem): void {
    if (this.#progressItems >= this.#limits.progressItems) this.#dropOldestProgress();
    const items = this.#progress.get(root);
    if (items) items.push(item);
    else this.#progress.set(root, [item]);
    this.#progressItems += 1;
    if (this.#progressSenders < this.#limits.senders) void this.#sendProgress();
  }

  async #sendUpdates(): Promise<void> {
    this.#updateSenders += 1;
    let failures = 0;
    for (let next = first(this.#updates); next; next = first(this.#updates)) {
      const [root, pending] = next;
      this.#updates.delete(root);
      const outcome = await this.#tell(`/api/sidecar/sessions/${root}/update`, pending.update);
      failures = outcome === "again" ? failures + 1 : 0;
      if (outcome === "refused") this.#lost("givenUpUpdates", 1);
      if (outcome !== "again") continue;
      if (this.#time.now() - pending.since > this.#limits.keepUpdatesMs) this.#lost("givenUpUpdates", 1);
      else if (!this.#updates.has(root)) this.#updates.set(root, pending);
      await this.#time.wait(this.#backoffMs(failures));
    }
    this.#updateSenders -= 1;
  }

  async #sendProgress(): Promise<void> {
    this.#progressSenders += 1;
    let failures = 0;
    for (let next = first(this.#progress); next; next = first(this.#progress)) {
      const [root, items] = next;
      const batch = this.#take(root, items);
      const path = `/api/sidecar/sessions/${root}/progress`;
      let outcome = await this.#tell(path, { items: batch });
      if (outcome === "again") {
        failures += 1;
        await this.#time.wait(this.#backoffMs(failures));
        outcome = await this.#tell(path, { items: batch });
      }
      if (outcome === "told") failures = 0;
      else this.#lost("droppedProgress", batch.length);
    }
    this.#progressSenders -= 1;
  }

  #take(root: string, items: ProgressItem[]): ProgressItem[] {
    let bytes = 0;
    let count = 0;
    for (const item of items) {
      bytes += Buffer.byteLength(JSON.stringify(item)) + 1;
      if (count > 0 && (count >= this.#limits.batchItems || bytes > this.#limits.batchBytes)) break;
      count += 1;
    }
    const batch = items.splice(0, count);
    this.#progressItems -= batch.length;
    this.#progress.delete(root);
    if (items.length > 0) this.#progress.set(root, items); // behind the other sessions
    return batch;
  }

  #dropOldestProgress(): void {
    const oldest = first(this.#progress);
    if (!oldest) return;
    const [root, items] = oldest;
    items.shift();
    if (items.length === 0) this.#progress.delete(root);
    this.#progressItems -= 1;
    this.#lost("droppedProgress", 1);
  }

  #lost(what: "droppedProgress" | "givenUpUpdates", count: number): void {
    this.counts[what] += count;
    if (this.#time.now() - this.#saidAt < this.#limits.sayEveryMs) return;
    this.#saidAt = this.#time.now();
    const { droppedProgress, givenUpUpdates } = this.counts;
    this.#say(`not told since the start: ${givenUpUpdates} ends of runs, ${droppedProgress} items of progress`);
  }

  async #tell(path: string, body: unknown): Promise<"told" | "refused" | "again"> {
    try {
      const { status } = await this.#post(path, body, { timeoutMs: this.#limits.timeoutMs });
      if (status >= 200 && status < 300) {
        this.counts.told += 1;
        return "told";
      }
      return status >= 500 || status === 408 || status === 429 ? "again" : "refused";
    } catch {
      return "again";
    }
  }

  #backoffMs(failures: number): number {
    const most = Math.min(this.#limits.maxWaitMs, this.#limits.firstWaitMs * 2 ** Math.min(failures - 1, 16));
    return most / 2 + Math.random() * (most / 2);
  }
}

function first<K, V>(entries: Map<K, V>): [K, V] | undefined {
  for (const entry of entries) return entry;
  return undefined;
}
