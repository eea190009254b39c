/** The three ways to the broker: WebSocket, `EventSource` and `fetch` (protocol, sections 2 and 3).
 *
 * Each opener takes what is wanted and where to go on from, and returns a link. All three report through the
 * same hooks:
 *
 *   onMessage(message)  each message, in order
 *   onRefused(error)    `{code, message}`: the subscription was refused, and the link lives on
 *   onEnd(end)          once, at the end: `{reason, retryAfterMs, refused}`
 *
 * `retryAfterMs` is null if there is no use in coming back, undefined if the broker did not say. After `close()`
 * on a link no hook is called.
 *
 * @typedef {{symbols: string[], cursor: string | null}} Wanted
 * @typedef {{watch: (wanted: Wanted) => boolean, close: () => void}} Link
 *   `watch` changes what is subscribed to, and returns false if that takes another connection.
 */

/** One subscription each, so the channel of a ledger entry is that of its subscription. */
export const CHANNELS = ["quote", "trade"];

const TYPES = ["welcome", "ack", "snapshot", "update", "gap", "notice", "heartbeat", "error", "closing"];
const UNREACHABLE = { reason: "the broker can't be reached" };
const LOST = { reason: "the connection was lost" };

/** Close codes (protocol, section 2), for a close without a `closing` message before it. */
const RETRY_AFTER_MS = {
  1000: null, 1001: 1000, 1009: null, 1013: 5000,
  4400: null, 4401: null, 4403: null, 4408: 1000, 4409: null, 4429: 10_000,
};

/** Wrap hooks so that nothing is heard behind the end. */
function guarded(hooks) {
  let isOver = false;
  const unlessOver = (hook) => (value) => {
    if (!isOver) hook(value);
  };
  const onMessage = unlessOver(hooks.onMessage);
  const onEnd = unlessOver((end) => {
    isOver = true;
    hooks.onEnd(end);
  });
  return {
    onMessage,
    onRefused: unlessOver(hooks.onRefused),
    onEnd,
    silence: () => {
      isOver = true;
    },
    /** Parse one message; what is no JSON is no broker. */
    onText: (text) => {
      let message;
      try {
        message = JSON.parse(text);
      } catch {
        onEnd({ reason: "what came is not JSON" });
        return;
      }
      onMessage(message);
    },
  };
}

/** @param {Wanted} wanted @returns {Link} */
function openWebSocket(wanted, given) {
  const url = new URL("/v1/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url, ["tapecast.v1.json"]);
  /** Ids of the subscribe requests that await their answer, and numbers of the subscriptions there are. */
  const asked = new Set();
  const subs = new Set();
  let nextId = 1;
  let isOpen = false;
  let pending = wanted;

  const send = (request) => {
    socket.send(JSON.stringify({ ...request, id: nextId }));
    return nextId++;
  };
  const subscribe = ({ symbols, cursor }) => {
    for (const sub of subs) send({ op: "unsubscribe", sub });
    subs.clear();
    for (const ch of CHANNELS) {
      asked.add(send({ op: "subscribe", ch, symbols, snapshot: true, ...(cursor && { cursor }) }));
    }
  };
  const hooks = guarded({
    ...given,
    onMessage: (message) => {
      if (message.type === "ack" && message.op === "subscribe") {
        asked.delete(message.id);
        subs.add(message.sub);
      } else if (message.type === "error" && asked.delete(message.id)) {
        hooks.onRefused(message);
        return;
      }
      given.onMessage(message);
    },
  });

  socket.onopen = () => {
    isOpen = true;
    subscribe(pending);
  };
  socket.onmessage = (event) => hooks.onText(event.data);
  socket.onclose = (event) => {
    const lost = isOpen ? LOST : UNREACHABLE;
    hooks.onEnd({ reason: event.reason || lost.reason, retryAfterMs: RETRY_AFTER_MS[event.code] });
  };
  return {
    watch: (next) => {
      pending = next;
      // Requests that have not been answered yet have no number to take them back by.
      if (isOpen && asked.size) return false;
      if (isOpen) subscribe(next);
      return true;
    },
    close: () => {
      hooks.silence();
      // Browsers complain of one that is closed before it is open.
      if (isOpen) socket.close(1000);
      else socket.onopen = () => socket.close(1000);
    },
  };
}

/** @param {Wanted} wanted */
export function streamUrl({ symbols, cursor }) {
  const query = new URLSearchParams({ ch: CHANNELS.join(","), symbols: symbols.join(","), snapshot: "true" });
  if (cursor) query.set("cursor", cursor);
  return `/v1/stream?${query}`;
}

/** @param {Wanted} wanted @returns {Link} */
function openEventSource(wanted, given) {
  const hooks = guarded(given);
  const url = streamUrl(wanted);
  const source = new EventSource(url);
  const explaining = new AbortController();
  let isOpen = false;
  source.onopen = () => {
    isOpen = true;
  };
  for (const type of TYPES) {
    // A lost connection is an `error` event as well, but one without data.
    source.addEventListener(type, (event) => event.data !== undefined && hooks.onText(event.data));
  }
  source.onerror = async (event) => {
    if (event.data !== undefined) return;
    // It would come back by itself, but not when, nor as seldom, as the broker asks for.
    source.close();
    hooks.onEnd(isOpen ? LOST : await explain(url, explaining));
  };
  return {
    watch: () => false,
    close: () => {
      hooks.silence();
      explaining.abort();
      source.close();
    },
  };
}

/** Find out why an `EventSource` was refused: it doesn't tell. */
async function explain(url, abort) {
  try {
    const response = await fetch(url, { signal: abort.signal, headers: { Accept: "text/event-stream" } });
    if (response.ok) {
      abort.abort();
      return LOST;
    }
    return await endOf(response);
  } catch {
    return UNREACHABLE;
  }
}

/** @param {Wanted} wanted @returns {Link} */
function openFetch(wanted, given) {
  const hooks = guarded(given);
  const abort = new AbortController();
  readLines(streamUrl(wanted), abort.signal, hooks).then(hooks.onEnd);
  return {
    watch: () => false,
    close: () => {
      hooks.silence();
      abort.abort();
    },
  };
}

/** Report each line of an NDJSON stream; return how it ended. */
async function readLines(url, signal, hooks) {
  const response = await fetch(url, { signal, headers: { Accept: "application/x-ndjson" } }).catch(() => null);
  if (response === null) return UNREACHABLE;
  if (!response.ok) return await endOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) return LOST;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) hooks.onText(line);
  }
}

/** Return what a refusal means (RFC 9457): one that finds fault with the request won't go away by itself. */
async function endOf(response) {
  const problem = await response.json().catch(() => ({}));
  const reason = problem.detail ?? `HTTP ${response.status}`;
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  if (!Number.isNaN(seconds)) return { reason, retryAfterMs: seconds * 1000 };
  if (response.status >= 500) return { reason };
  return { reason, retryAfterMs: null, refused: { code: problem.code ?? "refused", message: reason } };
}

/** By the name that stands in the page's address. */
export const TRANSPORTS = { ws: openWebSocket, sse: openEventSource, fetch: openFetch };
