// How much memory the server's process has, told every quarter of a minute: OpenCode's own API does not say.
// Nothing is kept or tried again, the next report says more.
import { randomBytes } from "node:crypto";
import { NoAnswerError, type Answer, type Limits } from "./endpoint.ts";

export type Post = (path: string, body: unknown, limits: Limits) => Promise<Answer>;

export const EVERY_MS = 15_000;
const TIMEOUT_MS = 5_000;

export class MemoryReports {
  readonly #post: Post;
  readonly #say: (message: string) => void;
  readonly #read: () => number;
  // A name of its own at each start: what the process before it had says nothing about this one.
  readonly #process = randomBytes(12).toString("base64url");
  #saidWhy = "";

  constructor(post: Post, say: (message: string) => void, read: () => number = () => process.memoryUsage.rss()) {
    this.#post = post;
    this.#say = say;
    this.#read = read;
  }

  /** Now and then every EVERY_MS, as long as the process lives; it does not keep it alive. */
  start(): void {
    void this.tell();
    setInterval(() => void this.tell(), EVERY_MS).unref();
  }

  /** Never throws. What is wrong is said once, until it is something else. */
  async tell(): Promise<void> {
    const body = { process: this.#process, resident_bytes: this.#read() };
    let why = "";
    try {
      const { status } = await this.#post("/api/sidecar/server", body, { timeoutMs: TIMEOUT_MS });
      if (status >= 300) why = `Nubabel answered ${status}`;
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      why = error.message;
    }
    if (why && why !== this.#saidWhy) this.#say(`memory is not told: ${why}`);
    this.#saidWhy = why;
  }
}
