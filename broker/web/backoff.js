/** How long to wait before the next attempt: exponential with full jitter, so that not all come back at once.
 *
 * Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. Times are in milliseconds.
 */

const BASE_MS = 200;
const CAP_MS = 10_000;
/** A connection that lived so long was good: the next failure starts again from the shortest wait. */
const STABLE_MS = 30_000;

export class Backoff {
  #attempts = 0;
  #random;

  /** @param {() => number} random returns a number from 0 up to 1. */
  constructor(random = Math.random) {
    this.#random = random;
  }

  /** Count a failure, and return the wait.
   *
   * @param {number} leastMs what the broker asked for; the jitter comes on top of it.
   */
  next(leastMs = 0) {
    const bound = Math.min(CAP_MS, BASE_MS * 2 ** Math.min(this.#attempts, 30));
    this.#attempts += 1;
    return leastMs + this.#random() * bound;
  }

  /** Take note of how long a connection has lived. */
  lasted(ms) {
    if (ms >= STABLE_MS) this.#attempts = 0;
  }
}
