/** What the page knows: the instruments on the watchlist and the account of the connection. */

import { Instrument } from "./instrument.js";
import { covers } from "./watchlist.js";

/** A pattern may match any number of symbols; a page can't. */
export const MAX_INSTRUMENTS = 1000;

export class Model {
  /** @type {Map<string, Instrument>} by symbol. */
  instruments = new Map();
  /** Those that have changed since they were last painted. */
  dirty = new Set();
  /** Symbols of patterns for which there is no room. */
  unshown = new Set();
  server = "";
  /** The ledger of the last heartbeat, summed up, and whether it agrees with what came; null before one. */
  ledger = null;
  #entries = new Set();
  #epoch = null;
  #goesOn = false;
  /** Whether the subscription began with a snapshot and not with a cursor that still stands for something. */
  #isWhole = false;
  /** Of the connection, by channel: what is in force, and how many ticks have come since its ack. */
  #modes = { quote: "latest", trade: "every" };
  #subs = {};
  #received = {};

  /** Set the watchlist; what it no longer covers is forgotten. */
  watch(entries) {
    this.#entries = new Set(entries);
    this.unshown.clear();
    // What is new on the list will be resumed along with the rest, from somewhere.
    this.#isWhole = false;
    for (const [symbol, instrument] of this.instruments) {
      if (!covers(this.#entries, symbol)) {
        this.instruments.delete(symbol);
        this.dirty.delete(instrument);
      }
    }
  }

  /** A connection begins. */
  begin(isResumed) {
    this.#goesOn = isResumed;
    this.#subs = {};
    this.ledger = null;
  }

  /** Take in one message.
   *
   * @param {number} now milliseconds, on the clock of `performance.now()`.
   */
  take(message, now) {
    switch (message.type) {
      case "update":
        for (const tick of message.data) this.#update(tick, now);
        break;
      case "snapshot":
        for (const tick of message.data) this.#with(tick, (instrument) => instrument.show(tick, now));
        break;
      case "gap":
        this.#with(message, (instrument) => instrument.gap(message));
        break;
      case "ack":
        if (message.op === "subscribe") this.#subscribed(message);
        break;
      case "heartbeat":
        this.#audit(message.ledger);
        break;
      case "welcome":
        this.#welcome(message);
        break;
    }
  }

  #welcome({ server, epoch }) {
    this.server = server;
    const goesOn = this.#goesOn && epoch === this.#epoch;
    this.#isWhole = !goesOn;
    this.#epoch = epoch;
    for (const instrument of this.instruments.values()) instrument.takenUp(goesOn);
  }

  #subscribed({ ch, sub, symbols, delivery }) {
    this.#modes[ch] = delivery.mode;
    this.#subs[sub] = ch;
    this.#received[ch] = 0;
    this.ledger = null;
    // A name has its row at once, also if its first tick is long in coming.
    for (const symbol of symbols) if (!symbol.endsWith("*")) this.#find(symbol);
  }

  #update(tick, now) {
    this.#received[tick.ch] = (this.#received[tick.ch] ?? 0) + 1;
    this.#with(tick, (instrument) => instrument.take(tick, this.#modes[tick.ch] === "every", now));
  }

  #with({ ch, sym }, change) {
    if (!(ch in this.#modes)) return;
    const instrument = this.#find(sym);
    if (instrument === null) return;
    change(instrument);
    this.dirty.add(instrument);
  }

  #find(symbol) {
    const known = this.instruments.get(symbol);
    if (known !== undefined) return known;
    // Ticks of a symbol that was just removed may be on their way.
    if (!covers(this.#entries, symbol)) return null;
    if (this.instruments.size >= MAX_INSTRUMENTS) {
      if (this.unshown.size < MAX_INSTRUMENTS) this.unshown.add(symbol);
      return null;
    }
    const instrument = new Instrument(symbol, this.#isWhole);
    this.instruments.set(symbol, instrument);
    this.dirty.add(instrument);
    return instrument;
  }

  /** Hold the broker's account against our own (protocol, section 5). */
  #audit(entries) {
    const sum = { offered: 0, delivered: 0, conflated: 0, dropped: 0, pending: 0, agrees: true };
    for (const { sub, ...entry } of entries) {
      const addsUp = entry.offered === entry.delivered + entry.conflated + entry.dropped + entry.pending;
      if (!addsUp || entry.delivered !== this.#received[this.#subs[sub]]) sum.agrees = false;
      for (const name of Object.keys(entry)) sum[name] += entry[name];
    }
    this.ledger = sum;
  }

  /** Bring all rates up to date, `seconds` after the last time. */
  measure(seconds) {
    for (const instrument of this.instruments.values()) {
      const before = instrument.rate;
      instrument.measure(seconds);
      if (instrument.rate !== before) this.dirty.add(instrument);
    }
  }

  /** Return the counters of all instruments together; `ts` is that of the newest tick, null without one. */
  totals() {
    const sum = { rate: 0, conflated: 0, gaps: 0, missing: 0, ts: null };
    for (const { rate, conflated, gaps, missing, ts } of this.instruments.values()) {
      sum.rate += rate;
      sum.conflated += conflated;
      sum.gaps += gaps;
      sum.missing += missing;
      if (ts !== null && (sum.ts === null || ts > sum.ts)) sum.ts = ts;
    }
    return sum;
  }
}
