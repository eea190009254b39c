/** The price of the last minute, as two SVG paths: the line, and the area below it. */

import { HISTORY_MS } from "./instrument.js";

const WIDTH = 120;
const HEIGHT = 24;
const MARGIN = 2;

/** Draw a history of `[time, price]`, oldest first, up to `now`: a price holds until the next one. */
export function drawChart(line, area, history, now) {
  if (!history.length) return;
  let low = Infinity;
  let high = -Infinity;
  for (const [, price] of history) {
    low = Math.min(low, price);
    high = Math.max(high, price);
  }
  const scale = high > low ? (HEIGHT - 2 * MARGIN) / (high - low) : 0;
  const x = (time) => Math.max(0, WIDTH * (1 - (now - time) / HISTORY_MS)).toFixed(1);
  const y = (price) => (scale ? HEIGHT - MARGIN - (price - low) * scale : HEIGHT / 2).toFixed(1);
  const first = x(history[0][0]);
  let path = `M${first} ${y(history[0][1])}`;
  for (const [time, price] of history) path += `L${x(time)} ${y(price)}`;
  path += `H${WIDTH}`;
  line.setAttribute("d", path);
  area.setAttribute("d", `${path}V${HEIGHT}H${first}Z`);
}
