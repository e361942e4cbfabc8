// Talks to the service. Paths are relative to the service's root, wherever a proxy has put it.

export const ROOT = new URL("..", import.meta.url);
const MOST_WAITS = 30; // times that a full queue is asked again

/** What went wrong, in words that can be shown; `status` is 0 if the service did not answer. */
export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export class Api {
  /**
   * @param askToken asks the person for a token; null if there is none to be had.
   * @param onWait called with the seconds that a full queue is waited for.
   */
  constructor({ askToken, onWait }) {
    this.askToken = askToken;
    this.onWait = onWait;
    this.pictures = new Map(); // path -> promise of an object URL
  }

  get root() {
    return ROOT;
  }

  get token() {
    return sessionStorage.getItem("token");
  }

  /** The response, if it is a good one; a 401 asks for the token once more, a 429 waits as it was told. */
  async send(path, options = {}) {
    for (let waits = 0; ; ) {
      const headers = { ...options.headers };
      const used = this.token;
      if (used) headers.Authorization = `Bearer ${used}`;
      let response;
      try {
        response = await fetch(new URL(path, ROOT), { ...options, headers });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Problem("The service does not answer. Is it still running, and are you online?");
      }
      if (response.ok) return response;
      if (response.status === 401 && (await this.#newToken(used))) continue;
      if (response.status === 429 && waits++ < MOST_WAITS) {
        const seconds = Number(response.headers.get("Retry-After")) || 2;
        this.onWait(seconds);
        await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
        continue;
      }
      throw await problemOf(response);
    }
  }

  // Requests that fail together ask together.
  async #newToken(used) {
    if (this.token !== used) return true; // another request has asked meanwhile
    this.asking ??= this.askToken().finally(() => (this.asking = null));
    const token = await this.asking;
    if (token) sessionStorage.setItem("token", token);
    return Boolean(token);
  }

  async json(path, options) {
    return (await this.send(path, options)).json();
  }

  /** Start a job; its statusInfo. */
  execute(process, inputs) {
    return this.json(`processes/${process}/execution`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Prefer: "respond-async" },
      body: JSON.stringify({ inputs }),
    });
  }

  upload(file, name = file.name) {
    const body = new FormData();
    body.append("file", file, name);
    return this.json("uploads", { method: "POST", body });
  }

  remove(id) {
    return this.send(`jobs/${id}`, { method: "DELETE" });
  }

  /** An address of a picture that `<img>` can show; fetched, since an image element sends no token. */
  picture(path) {
    if (!this.pictures.has(path)) {
      const made = this.send(path)
        .then((response) => response.blob())
        .then((blob) => URL.createObjectURL(blob));
      made.catch(() => this.pictures.delete(path));
      this.pictures.set(path, made);
    }
    return this.pictures.get(path);
  }

  async bitmap(path) {
    return createImageBitmap(await (await this.send(path)).blob());
  }

  /** Yields {event, data} of a job until the service ends the stream. An EventSource would send no token. */
  async *events(id, signal) {
    const response = await this.send(`jobs/${id}/events`, { signal, headers: { Accept: "text/event-stream" } });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text = (text + value).replaceAll("\r\n", "\n");
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const found = parseEvent(block);
        if (found) yield found;
      }
    }
  }
}

/** {event, data} of one block of a stream; null for a comment. */
function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}

async function problemOf(response) {
  let said = {};
  try {
    said = await response.json();
  } catch {
    // Not JSON: a proxy's page. The status is all there is to say.
  }
  const detail = typeof said.detail === "string" ? said.detail : "";
  const title = said.title ?? `The service answered ${response.status}`;
  return new Problem(detail || `${title}.`, response.status);
}
