/** What stands around the table: state of the connection, counters, chips, complaints, the line for a terminal. */

import { NONE, age, count, rate } from "./format.js";
import { streamUrl } from "./transports.js";
import { isPattern } from "./watchlist.js";

const $ = (id) => document.getElementById(id);
const NAMES = { ws: "WebSocket", sse: "SSE", fetch: "fetch" };
const TITLE = document.title;

/** What people are told of a rejected symbol. */
const CODES = {
  unknown_symbol: "is not known here",
  unknown_venue: "is of a venue that is not known here",
  invalid_symbol: "is not VENUE:SYMBOL",
  already_subscribed: "is there twice",
};

/** Set a text only if it changes: an `aria-live` region would be read out again. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show the state of the connection. */
export function showState({ phase, reason }, transport) {
  $("state").dataset.phase = phase;
  const why = reason ? `: ${reason}` : "";
  const texts = {
    idle: "Nothing to watch",
    connecting: `Connecting over ${NAMES[transport]}`,
    connected: `Connected over ${NAMES[transport]}`,
    waiting: `Reconnecting${why}`,
    stopped: `Closed${why}`,
  };
  say($("state-text"), texts[phase]);
  $("retry").hidden = phase !== "waiting" && phase !== "stopped";
  document.title = phase === "connected" || phase === "idle" ? TITLE : `${TITLE} (${phase})`;
}

/** Count down to the next attempt; apart from the state, so that no screen reader counts along. */
export function showCountdown({ phase, retryAt }, now) {
  const seconds = Math.max(0, Math.ceil((retryAt - now) / 1000));
  say($("state-count"), phase === "waiting" ? `in ${seconds} s` : "");
}

/** Show the counters of all instruments together. */
export function showTotals(model, wall) {
  const totals = model.totals();
  say($("server"), model.server);
  say($("total-symbols"), count(model.instruments.size));
  say($("total-rate"), rate(totals.rate));
  say($("total-age"), totals.ts === null ? NONE : age(wall - totals.ts));
  say($("total-conflated"), count(totals.conflated));
  say($("total-gaps"), count(totals.gaps) + (totals.missing ? ` (${count(totals.missing)} ticks)` : ""));
  $("total-gaps").toggleAttribute("data-alert", totals.gaps > 0);
  showLedger(model.ledger);
  const unshown = model.unshown.size;
  const more = unshown ? `${count(unshown)} more symbols match, and are not shown` : "";
  say($("note"), model.instruments.size ? more : "No symbol has a row yet: add one above, or a pattern like SIM:*");
}

function showLedger(ledger) {
  const element = $("ledger");
  if (ledger === null) {
    element.dataset.verdict = "";
    say(element, "after the first heartbeat");
    return;
  }
  const { offered, delivered, conflated, dropped, pending, agrees } = ledger;
  element.dataset.verdict = agrees ? "agrees" : "differs";
  const sum = `${count(offered)} offered = ${count(delivered)} delivered + ${count(conflated)} conflated + ${count(dropped)} dropped + ${count(pending)} pending`;
  say(element, `${sum}, ${agrees ? "and as many came" : "but that is not what came"}`);
}

/** Show the entries that have no row of their own: patterns, and names that the broker rejected. */
export function showChips(entries, rejected, onRemove) {
  const shown = entries.filter((entry) => isPattern(entry) || rejected.has(entry));
  $("chips").replaceChildren(...shown.map((entry) => chip(entry, rejected.get(entry), onRemove)));
}

function chip(entry, code, onRemove) {
  const element = $("chip").content.firstElementChild.cloneNode(true);
  const [text, button] = element.children;
  text.textContent = entry;
  if (code) {
    element.dataset.rejected = code;
    element.title = `${entry} ${CODES[code] ?? code}`;
  }
  button.setAttribute("aria-label", `Remove ${entry}`);
  button.addEventListener("click", () => onRemove(entry));
  return element;
}

/** Return what puts the focus, once the button that has it is gone, on the one that took its place.
 *
 * Not into the field: that would bring up the keyboard of a phone.
 */
export function holdFocus() {
  const buttons = () => [...document.querySelectorAll("#chips button, #rows button:not([hidden])")];
  const place = buttons().indexOf(document.activeElement);
  return () => {
    if (place < 0) return;
    const left = buttons();
    (left[place] ?? left.at(-1) ?? document.querySelector("#add button")).focus();
  };
}

/** Say next to the field what is wrong; an empty text takes it back. */
export function complain(text) {
  say($("complaint"), text);
  $("symbol").setAttribute("aria-invalid", String(text !== ""));
}

/** Return what to say of symbols that were rejected. */
export function complaintOf(rejected) {
  return rejected.map(({ symbol, code }) => `${symbol} ${CODES[code] ?? `was rejected: ${code}`}`).join("; ");
}

/** Offer the symbols that the broker knows. */
export function showKnown(symbols) {
  const options = symbols.map((symbol) => {
    const option = document.createElement("option");
    option.value = symbol;
    return option;
  });
  $("known").replaceChildren(...options);
}

/** Show what shows the same in a terminal. */
export function showCurl(entries) {
  // No character of a symbol needs an escape but the plus sign, and a line to read has no others.
  const url = streamUrl({ symbols: entries, cursor: null })
    .replaceAll("%3A", ":")
    .replaceAll("%2C", ",")
    .replaceAll("%2F", "/")
    .replace("&snapshot=true", "");
  say($("curl"), entries.length ? `curl -N '${location.origin}${url}'` : "");
  $("copy").disabled = !entries.length;
}

/** Put the line for a terminal into the clipboard; where that isn't allowed, select it. */
export async function copyCurl() {
  const button = $("copy");
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } catch {
    getSelection().selectAllChildren($("curl"));
  }
}
