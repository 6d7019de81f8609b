// Whose a session is. It follows from the metadata of its root session, which Nubabel wrote; a sub-agent's session has none
// and is followed by parentID. Ids only: nothing that is remembered here is secret, and nothing is "the current tenant".

export interface Owner {
  readonly root: string;
  readonly organization: string;
}

export interface SessionRecord {
  readonly parentID?: string | undefined;
  readonly metadata?: unknown;
}

export type ReadSession = (id: string) => Promise<SessionRecord>;

const MAX_DEPTH = 16;
const MAX_REMEMBERED = 10_000;
const FOREIGN_FOR_MS = 10_000; // a session may get its metadata after its creation
const ID = /^[A-Za-z0-9_-]{1,80}$/;

export class Sessions {
  readonly #read: ReadSession;
  readonly #now: () => number;
  readonly #remembered = new Map<string, { owner: Promise<Owner | null>; until: number }>();

  constructor(read: ReadSession, now: () => number = Date.now) {
    this.#read = read;
    this.#now = now;
  }

  /** null: not a session of Nubabel's. Throws what reading throws; that is not remembered. */
  owner(id: string): Promise<Owner | null> {
    const known = this.#remembered.get(id);
    if (known && known.until > this.#now()) return known.owner;
    const entry = { owner: this.#find(id), until: Infinity };
    this.#remembered.delete(id);
    this.#remembered.set(id, entry);
    if (this.#remembered.size > MAX_REMEMBERED) {
      for (const [oldest] of this.#remembered) {
        this.#remembered.delete(oldest);
        break;
      }
    }
    entry.owner.then(
      (owner) => {
        if (owner === null) entry.until = this.#now() + FOREIGN_FOR_MS;
      },
      () => {
        if (this.#remembered.get(id) === entry) this.#remembered.delete(id);
      },
    );
    return entry.owner;
  }

  async #find(id: string): Promise<Owner | null> {
    let root = id;
    for (let depth = 0; depth < MAX_DEPTH; depth += 1) {
      const session = await this.#read(root);
      if (!session.parentID) return ownerOf(root, session.metadata);
      root = session.parentID;
    }
    return null;
  }
}

function ownerOf(root: string, metadata: unknown): Owner | null {
  if (typeof metadata !== "object" || metadata === null) return null;
  const { organization_id: organization, session_id: session } = metadata as Record<string, unknown>;
  if (typeof organization !== "string" || typeof session !== "string") return null;
  return ID.test(organization) ? { root, organization } : null;
}
