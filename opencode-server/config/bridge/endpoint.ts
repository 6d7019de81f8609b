// Signed calls to Nubabel's web. The signature's form is shared with its gateway; see docs/operations.md.
import { createHmac, randomBytes } from "node:crypto";
import type { BridgeSettings } from "./settings.ts";

const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

export interface Answer {
  readonly status: number;
  /** The decoded JSON, or undefined where the body is none. */
  readonly body: unknown;
}

export interface Limits {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export interface SignedParts {
  readonly timestamp: number;
  readonly nonce: string;
  readonly method: string;
  /** As sent, with the query if there is one. */
  readonly path: string;
  readonly body: string;
}

export function signature(key: string, parts: SignedParts): string {
  const head = `v1:${parts.timestamp}:${parts.nonce}:${parts.method}:${parts.path}:`;
  return `v1=${createHmac("sha256", key).update(head).update(parts.body).digest("hex")}`;
}

/** No answer came: no connection, a time limit, an answer that is too long. Whether the call arrived is not known. */
export class NoAnswerError extends Error {}

export class Endpoint {
  readonly #settings: BridgeSettings;

  constructor(settings: BridgeSettings) {
    this.#settings = settings;
  }

  /** Throws NoAnswerError. Redirects are not followed: the signature holds for one address. */
  async post(path: string, body: unknown, limits: Limits): Promise<Answer> {
    const url = new URL(this.#settings.url + path);
    const text = JSON.stringify(body);
    const timeout = AbortSignal.timeout(limits.timeoutMs);
    const signal = limits.signal ? AbortSignal.any([timeout, limits.signal]) : timeout;
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: this.#headers(url, text),
        body: text,
        redirect: "manual",
        signal,
      });
      return { status: response.status, body: parsed(await limited(response)) };
    } catch (error) {
      throw new NoAnswerError(`no answer from Nubabel: ${reason(error)}`);
    }
  }

  #headers(url: URL, body: string): Record<string, string> {
    const timestamp = Math.floor(Date.now() / 1000);
    const nonce = randomBytes(18).toString("base64url");
    const signed = { timestamp, nonce, method: "POST", path: url.pathname + url.search, body };
    return {
      "content-type": "application/json",
      "x-nubabel-instance": this.#settings.instance,
      "x-nubabel-timestamp": String(timestamp),
      "x-nubabel-nonce": nonce,
      "x-nubabel-signature": signature(this.#settings.key, signed),
    };
  }
}

async function limited(response: Response): Promise<string> {
  const decoder = new TextDecoder();
  let size = 0;
  let text = "";
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > MAX_ANSWER_BYTES) throw new Error("the answer is too long");
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function reason(error: unknown): string {
  if (!(error instanceof Error)) return "unknown error";
  return error.name === "TimeoutError" ? "time limit" : error.message;
}
