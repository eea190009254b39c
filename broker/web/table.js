/** The table of instruments: painted at most once for each animation frame, and only what can be seen. */

import { Row } from "./row.js";
import { isPattern } from "./watchlist.js";

/** Nobody reads faster; at thousands of ticks a second it halves the work of the page. */
const PAINT_MS = 40;
const TIME_MS = 250;

export class Table {
  #model;
  #body = document.getElementById("rows");
  #onRemove;
  #entries = [];
  /** @type {Map<string, Row>} */
  #rows = new Map();
  #byElement = new Map();
  #paintedAt = -Infinity;
  #timeAt = -Infinity;
  #seen = new IntersectionObserver((changes) => this.#look(changes), { rootMargin: "200px" });

  /** @param {import("./model.js").Model} model @param {(symbol: string) => void} onRemove */
  constructor(model, onRemove) {
    this.#model = model;
    this.#onRemove = onRemove;
  }

  /** Show another watchlist. */
  watch(entries) {
    this.#entries = entries;
    for (const [symbol, row] of this.#rows) {
      if (!this.#model.instruments.has(symbol)) this.#discard(symbol, row);
    }
    this.#order();
  }

  /** Paint, if the last time was long enough ago; return whether it was. */
  paint(now, wall) {
    if (now - this.#paintedAt < PAINT_MS) return false;
    this.#paintedAt = now;
    this.#drain();
    const isTime = now - this.#timeAt >= TIME_MS;
    if (isTime) this.#timeAt = now;
    for (const row of this.#rows.values()) {
      if (!row.isVisible) continue;
      if (row.isStale) row.paint(now);
      if (isTime) row.paintTime(now, wall);
    }
    return true;
  }

  /** Make rows of what is new, and mark those that have changed. */
  #drain() {
    const { dirty } = this.#model;
    const before = this.#rows.size;
    for (const instrument of dirty) {
      const row = this.#rows.get(instrument.symbol);
      if (row?.instrument === instrument) row.isStale = true;
      else this.#add(instrument, row);
    }
    dirty.clear();
    if (this.#rows.size !== before) this.#order();
  }

  #add(instrument, former) {
    const { symbol } = instrument;
    // Removed and added again between two frames.
    if (former) this.#discard(symbol, former);
    const row = new Row(instrument, () => this.#onRemove(symbol));
    this.#rows.set(symbol, row);
    this.#byElement.set(row.element, row);
    this.#body.append(row.element);
    this.#seen.observe(row.element);
  }

  #discard(symbol, row) {
    this.#rows.delete(symbol);
    this.#byElement.delete(row.element);
    this.#seen.unobserve(row.element);
    row.element.remove();
  }

  /** Bring the rows into the order of the watchlist: names as they stand there, then what patterns brought. */
  #order() {
    const place = new Map(this.#entries.filter((entry) => !isPattern(entry)).map((entry, index) => [entry, index]));
    const wanted = [...this.#rows.keys()].sort(
      (a, b) => (place.get(a) ?? Infinity) - (place.get(b) ?? Infinity) || (a < b ? -1 : 1),
    );
    let next = this.#body.firstElementChild;
    for (const symbol of wanted) {
      const row = this.#rows.get(symbol);
      row.isRemovable = place.has(symbol);
      // Moving a row would take the focus from it.
      if (row.element === next) next = next.nextElementSibling;
      else this.#body.insertBefore(row.element, next);
    }
  }

  #look(changes) {
    for (const { target, isIntersecting } of changes) {
      const row = this.#byElement.get(target);
      if (row) row.isVisible = isIntersecting;
    }
  }
}
