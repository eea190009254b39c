/** What is known of one symbol. Prices stay the text that the venue sent; numbers are for change and chart only. */

import { decimalsOf, millisOf } from "./format.js";
import { Sequence } from "./sequence.js";

/** The chart goes back so far, one point each. */
export const HISTORY_MS = 60_000;
const POINT_MS = 500;
/** Time constant of the rate. */
const RATE_S = 2;

/** A price as sent, and where it went: 1 up, -1 down, 0 neither. */
class Price {
  text = null;
  direction = 0;

  set(text) {
    if (text === this.text) return;
    const known = this.text !== null && text !== null;
    this.direction = known ? Math.sign(Number(text) - Number(this.text)) : 0;
    this.text = text;
  }
}

export class Instrument {
  last = new Price();
  bid = new Price();
  ask = new Price();
  /** When its newest tick happened, in milliseconds of Unix time; null before the first. */
  ts = null;
  /** Ticks per second, those of snapshots left out. */
  rate = 0;
  /** Ticks that a later one replaced. */
  conflated = 0;
  /** How often ticks were lost, how many at least, and how it came last. */
  gaps = 0;
  missing = 0;
  lastGap = "";
  /** The price: the last trade's, or the middle of bid and ask before the first; null if there is neither. */
  price = null;
  /** The first price that this page saw; what `change` refers to. */
  opened = null;
  /** Digits behind the point that its prices need. */
  decimals = 2;
  /** `[time, price]`, oldest first; times on the clock that `take` is given. */
  history = [];
  #isTraded = false;
  #received = 0;
  #sequences;

  /** @param {boolean} isWhole see `Sequence`. */
  constructor(symbol, isWhole) {
    this.symbol = symbol;
    this.#sequences = { quote: new Sequence(isWhole), trade: new Sequence(isWhole) };
  }

  /** The difference to the first price of this page; null without prices. */
  get change() {
    return this.price === null ? null : this.price - this.opened;
  }

  /** Take in a tick of an update.
   *
   * @param {boolean} isEvery whether its subscription gets every tick, so that skipping one is a fault.
   * @param {number} now milliseconds, any clock that never goes back.
   */
  take(tick, isEvery, now) {
    const skipped = this.#sequences[tick.ch].tick(tick.seq);
    if (skipped < 0) return;
    if (skipped > 0 && isEvery) this.#lost(skipped, `${skipped} ${tick.ch} ticks, untold`);
    else this.conflated += skipped;
    this.#received += 1;
    this.#apply(tick, now);
  }

  /** Take in a tick of a snapshot. */
  show(tick, now) {
    if (this.#sequences[tick.ch].snapshot(tick.seq)) this.#apply(tick, now);
  }

  /** Take in a `gap` message. */
  gap({ ch, from, to, reason }) {
    const missing = this.#sequences[ch].gap(from, to);
    if (missing !== 0) this.#lost(missing ?? 0, `${ch} ${from ?? "?"} to ${to ?? "?"}: ${reason}`);
  }

  /** Begin again on another connection; see `Sequence.takenUp`. */
  takenUp(goesOn) {
    this.#sequences.quote.takenUp(goesOn);
    this.#sequences.trade.takenUp(goesOn);
  }

  /** Bring the rate up to date, `seconds` after the last time. */
  measure(seconds) {
    const weight = 1 - Math.exp(-seconds / RATE_S);
    this.rate += (this.#received / seconds - this.rate) * weight;
    // It would never get there by itself.
    if (this.rate < 0.01) this.rate = 0;
    this.#received = 0;
  }

  #lost(missing, how) {
    this.gaps += 1;
    this.missing += missing;
    this.lastGap = how;
  }

  #apply(tick, now) {
    this.ts = Math.max(this.ts ?? 0, millisOf(tick.ts));
    if (tick.ch === "trade") {
      this.last.set(tick.price);
      // Changes of the middle and of the last trade are not to be mixed.
      if (!this.#isTraded) this.opened = null;
      this.#isTraded = true;
      this.#move(Number(tick.price), tick.price, now);
      return;
    }
    this.bid.set(tick.bid);
    this.ask.set(tick.ask);
    if (!this.#isTraded && tick.bid !== null && tick.ask !== null) {
      this.#move((Number(tick.bid) + Number(tick.ask)) / 2, tick.bid, now);
    }
  }

  #move(price, text, now) {
    this.price = price;
    this.opened ??= price;
    this.decimals = Math.max(this.decimals, decimalsOf(text));
    const { history } = this;
    const newest = history.at(-1);
    if (newest && now - newest[0] < POINT_MS) {
      newest[1] = price;
      return;
    }
    history.push([now, price]);
    // The one before the beginning stays: it is the price with which the chart begins.
    while (history.length > 1 && history[1][0] < now - HISTORY_MS) history.shift();
  }
}
