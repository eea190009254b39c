/** One row of the table: paints what has changed, and nothing else. */

import { drawChart } from "./chart.js";
import { NONE, age, count, rate, signed, splitZeros } from "./format.js";

/** A cell that changes all the time does not flash all the time. */
const FLASH_MS = 500;
/** The chart has a point each half second; more would not be seen. */
const CHART_MS = 500;
const template = document.getElementById("row");

/** A node's text, written only if it changes: reading it back from the document is slow. */
class Text {
  #node;
  #shown = null;

  constructor(element) {
    this.#node = element.appendChild(document.createTextNode(""));
  }

  /** Return whether this was a change. */
  set(text) {
    if (text === this.#shown) return false;
    this.#shown = text;
    this.#node.data = text;
    return true;
  }
}

/** A price, its padding zeros apart, that flashes when it moves. */
class PriceCell {
  #cell;
  #price;
  #zeros;
  #shown;
  #flashedAt = -Infinity;
  #isOdd = false;

  constructor(cell) {
    this.#cell = cell;
    this.#price = new Text(cell.children[0]);
    this.#zeros = new Text(cell.children[1]);
  }

  paint({ text, direction }, now) {
    if (text === this.#shown) return;
    const isFirst = this.#shown === undefined;
    this.#shown = text;
    const [price, zeros] = text === null ? [NONE, ""] : splitZeros(text);
    this.#price.set(price);
    this.#zeros.set(zeros);
    if (isFirst || direction === 0 || now - this.#flashedAt < FLASH_MS) return;
    this.#flashedAt = now;
    // Two names for one animation: changing the name starts it anew, without forcing a layout.
    this.#isOdd = !this.#isOdd;
    this.#cell.dataset.flash = `${direction > 0 ? "up" : "down"}-${this.#isOdd ? "odd" : "even"}`;
  }
}

export class Row {
  /** Whether it is on the screen (taken to be until somebody looks), and whether it shows what was last known. */
  isVisible = true;
  isStale = true;
  #chartAt = -Infinity;

  /** @param {import("./instrument.js").Instrument} instrument @param {() => void} onRemove */
  constructor(instrument, onRemove) {
    this.instrument = instrument;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.symbol = instrument.symbol;
    const cell = (name) => this.element.querySelector(`.${name}`);
    const [venue, name] = instrument.symbol.split(/:(.*)/s);
    cell("venue").textContent = `${venue}:`;
    cell("name").textContent = name;
    this.prices = ["last", "bid", "ask"].map((side) => [side, new PriceCell(cell(side))]);
    this.changes = cell("change");
    this.texts = {};
    for (const column of ["change", "percent", "rate", "age", "conflated", "gaps"]) {
      this.texts[column] = new Text(cell(column));
    }
    this.gaps = cell("gaps");
    this.line = cell("line");
    this.area = cell("area");
    this.button = cell("remove").firstElementChild;
    this.button.setAttribute("aria-label", `Remove ${instrument.symbol}`);
    this.button.addEventListener("click", onRemove);
  }

  /** Say whether the row has a name of its own on the watchlist; one of a pattern goes with the pattern. */
  set isRemovable(value) {
    this.button.hidden = !value;
  }

  /** Show the instrument as it is. */
  paint(now) {
    this.isStale = false;
    const { instrument, texts } = this;
    for (const [side, cell] of this.prices) cell.paint(instrument[side], now);
    this.#paintChange();
    texts.rate.set(instrument.price === null && instrument.rate === 0 ? NONE : rate(instrument.rate));
    texts.conflated.set(count(instrument.conflated));
    if (texts.gaps.set(count(instrument.gaps)) && instrument.gaps) {
      this.gaps.title = `at least ${count(instrument.missing)} ticks lost; last: ${instrument.lastGap}`;
      this.gaps.dataset.alert = "";
    }
  }

  #paintChange() {
    const { change, opened, decimals } = this.instrument;
    this.texts.change.set(change === null ? NONE : signed(change, decimals));
    this.texts.percent.set(change === null || opened === 0 ? NONE : `${signed((change / opened) * 100, 2)}%`);
    const trend = change === null || Math.abs(change) < 0.5 * 10 ** -decimals ? "" : change > 0 ? "up" : "down";
    if (this.element.dataset.trend !== trend) this.element.dataset.trend = trend;
  }

  /** Show what changes with time alone. `wall` is milliseconds of Unix time. */
  paintTime(now, wall) {
    const { ts, history } = this.instrument;
    this.texts.age.set(ts === null ? NONE : age(wall - ts));
    if (now - this.#chartAt >= CHART_MS) {
      this.#chartAt = now;
      drawChart(this.line, this.area, history, now);
    }
  }
}
