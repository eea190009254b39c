/** A subscriber of the broker: keeps one connection, over any transport, and resumes by cursor.
 *
 * One cursor covers the whole session and works across transports (protocol, section 6), so a lost connection,
 * another transport and another list of symbols are one and the same: subscribe anew, from the cursor on.
 */

import { Backoff } from "./backoff.js";
import { CHANNELS, TRANSPORTS } from "./transports.js";

const WATCHDOG_MS = 1000;
/** So many heartbeats may fail to come before a silent connection is given up; never sooner than the least. */
const SILENT_HEARTBEATS = 2.5;
const SILENT_LEAST_MS = 5000;

/** What a connection is doing.
 *
 * @typedef {object} State
 * @property {"idle" | "connecting" | "connected" | "waiting" | "stopped"} phase `idle`: nothing to subscribe to;
 *   `waiting`: for the next attempt; `stopped`: the broker said not to come back.
 * @property {string} reason of the last end; empty if there was none.
 * @property {number} retryAt when the next attempt is due, on the clock of `performance.now()`.
 */

export class Client {
  /** @type {State} */
  state = { phase: "idle", reason: "", retryAt: 0 };
  #hooks;
  #backoff = new Backoff();
  #transport;
  #symbols = [];
  #cursor = null;
  #link = null;
  /** Answers to subscribe requests that have yet to come, and a refusal among those that have. */
  #awaited = 0;
  #refusal = null;
  #closing = null;
  #openedAt = 0;
  #heardAt = 0;
  #heartbeatMs = 10_000;
  #timer = 0;

  /**
   * @param {keyof TRANSPORTS} transport
   * @param {object} hooks `onState(state)`; `onBegin(isResumed)`, before the first message of each connection;
   *   `onMessage(message)`; `onRefused({code, message})`, when no symbol at all was accepted.
   */
  constructor(transport, hooks) {
    this.#transport = transport;
    this.#hooks = hooks;
    let checkedAt = performance.now();
    setInterval(() => {
      const now = performance.now();
      // After a sleep, what came meanwhile has yet to be read: not the connection was silent, but we were.
      if (now - checkedAt > 5 * WATCHDOG_MS) this.#heardAt = now;
      checkedAt = now;
      this.#giveUpIfSilent(now);
    }, WATCHDOG_MS);
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => document.hidden || this.retry());
  }

  /** Subscribe to these symbols and patterns, and to no others. */
  watch(symbols) {
    this.#symbols = symbols;
    if (!symbols.length) {
      this.#drop();
      this.#enter("idle");
    } else if (this.#link?.watch({ symbols, cursor: this.#cursor })) {
      this.#awaited = CHANNELS.length;
    } else {
      this.#open();
    }
  }

  /** Take note that the list in force is shorter than what was asked for: the broker rejected the others. */
  amend(symbols) {
    if (symbols.length) this.#symbols = symbols;
    else this.watch(symbols);
  }

  /** Go on over another transport. */
  use(transport) {
    if (transport === this.#transport) return;
    this.#transport = transport;
    if (this.#symbols.length) this.#open();
  }

  /** Do not wait any longer for the next attempt. */
  retry() {
    if (this.state.phase === "waiting") this.#open();
  }

  /** Try again although the broker said not to. */
  restart() {
    if (this.state.phase === "stopped" && this.#symbols.length) this.#open();
  }

  #open() {
    this.#drop();
    this.#enter("connecting", this.state.reason);
    this.#awaited = CHANNELS.length;
    this.#closing = this.#refusal = null;
    this.#openedAt = this.#heardAt = performance.now();
    this.#hooks.onBegin(this.#cursor !== null);
    const wanted = { symbols: this.#symbols, cursor: this.#cursor };
    this.#link = TRANSPORTS[this.#transport](wanted, {
      onMessage: (message) => this.#take(message),
      onRefused: (error) => this.#refused(error),
      onEnd: (end) => this.#ended(end),
    });
  }

  /** Tell of a refusal, once all requests of the list have been answered: then another list can follow. */
  #refused(error) {
    this.#awaited -= 1;
    this.#refusal = error;
    this.#tellRefusal();
  }

  #tellRefusal() {
    if (this.#awaited > 0 || this.#refusal === null) return;
    const error = this.#refusal;
    this.#refusal = null;
    this.#hooks.onRefused(error);
  }

  /** Let go of the connection, or of the next attempt at one. */
  #drop() {
    clearTimeout(this.#timer);
    this.#link?.close();
    this.#link = null;
  }

  #take(message) {
    this.#heardAt = performance.now();
    if (message.type === "welcome") {
      this.#heartbeatMs = message.heartbeat_s * 1000;
      this.#enter("connected");
    } else if (message.type === "ack" && message.op === "subscribe") {
      this.#awaited -= 1;
      this.#tellRefusal();
    } else if (message.type === "closing") {
      this.#closing = message;
    }
    this.#hooks.onMessage(message);
    // Until all subscriptions are in force a cursor stands for those alone that are; and behind a part of a
    // snapshot the other parts are still to come.
    if (message.cursor && message.type !== "ack" && !message.more && this.#awaited === 0) {
      this.#cursor = message.cursor;
    }
  }

  #ended(end) {
    this.#link = null;
    this.#backoff.lasted(performance.now() - this.#openedAt);
    const closing = this.#closing;
    const reason = closing?.reason ?? end.reason;
    const retryAfterMs = closing ? closing.retry_after_ms : end.retryAfterMs;
    if (end.refused) this.#hooks.onRefused(end.refused);
    // Hearing of the refusal, the page may have asked for something else already.
    if (this.#link !== null || this.state.phase === "idle") return;
    if (retryAfterMs === null) {
      this.#enter("stopped", reason);
      return;
    }
    const wait = this.#backoff.next(retryAfterMs);
    this.#timer = setTimeout(() => this.#open(), wait);
    this.#enter("waiting", reason, performance.now() + wait);
  }

  #giveUpIfSilent(now) {
    const silentMs = now - this.#heardAt;
    if (this.#link !== null && silentMs > Math.max(SILENT_LEAST_MS, SILENT_HEARTBEATS * this.#heartbeatMs)) {
      this.#link.close();
      this.#ended({ reason: `the broker was silent for ${Math.round(silentMs / 1000)} s` });
    }
  }

  #enter(phase, reason = "", retryAt = 0) {
    this.state = { phase, reason, retryAt };
    this.#hooks.onState(this.state);
  }
}
