/** The account of one topic's `seq`: what came, what was skipped, what came twice (protocol, section 5). */

/** Ranges told ahead of the ticks; the broker merges adjacent ones, so a handful is the most in practice. */
const MAX_TOLD = 256;

export class Sequence {
  /** The highest `seq` that is accounted for, 0 before the first; null: not known, the next one is right. */
  last;
  #hasGap = false;
  /** Ranges of a gap that lie ahead of `last`. */
  #told = [];

  /** @param {boolean} isWhole whether the account begins with a snapshot, so that what is not in it has had no tick. */
  constructor(isWhole) {
    this.last = isWhole ? 0 : null;
  }

  /** Take in a tick of an update; return how many were skipped untold before it, -1 if it has come before. */
  tick(seq) {
    const last = this.last;
    if (last !== null && seq <= last) return -1;
    this.last = seq;
    if (last === null || seq === last + 1) return 0;
    return seq - last - 1 - this.#toldBetween(last, seq);
  }

  #toldBetween(last, seq) {
    let told = 0;
    for (const [from, to] of this.#told) {
      told += Math.max(0, Math.min(to, seq - 1) - Math.max(from, last + 1) + 1);
    }
    this.#told = this.#told.filter(([, to]) => to > seq);
    return Math.min(told, seq - last - 1);
  }

  /** Take in a gap, both ends inclusive and each null if unknown; return how many ticks it means, null if unknown. */
  gap(from, to) {
    this.#hasGap = true;
    if (this.last === null || to === null) {
      this.last = to;
      return from === null || to === null ? null : to - from + 1;
    }
    const first = Math.max(from ?? 0, this.last + 1);
    if (first > to) return 0;
    if (first === this.last + 1) this.last = to;
    else this.#told = [...this.#told.slice(1 - MAX_TOLD), [first, to]];
    return to - first + 1;
  }

  /** Take in a tick of a snapshot; return whether it is news.
   *
   * It is not while the account goes on: then every tick since the cursor follows anyway.
   */
  snapshot(seq) {
    if (this.last && !this.#hasGap) return false;
    this.last = Math.max(this.last ?? 0, seq);
    return true;
  }

  /** Begin again on another connection.
   *
   * @param {boolean} goesOn whether it resumes in the same epoch; another one numbers from 1.
   */
  takenUp(goesOn) {
    this.#hasGap = false;
    this.#told = [];
    if (!goesOn) this.last = 0;
  }
}
