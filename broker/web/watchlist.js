/** The watchlist: symbols and patterns, and how they stand in the page's address. */

/** So many symbols are shown to somebody who did not choose any. */
export const DEFAULT_ENTRIES = 40;
/** More names than this make a request's head too long. */
export const MAX_ENTRIES = 200;
/** The broker accepts no longer one, and tells no more of it when it rejects it. */
const MAX_SYMBOL = 80;

export const isPattern = (entry) => entry === "*" || entry.endsWith(":*");

/** Tell whether one of the entries is, or matches, the symbol.
 *
 * @param {Set<string>} entries
 */
export function covers(entries, symbol) {
  const venue = symbol.slice(0, symbol.indexOf(":"));
  return entries.has(symbol) || entries.has(`${venue}:*`) || entries.has("*");
}

/** Return what somebody typed as entries: upper case, and with its venue if it is left out and there is but one. */
export function entriesOf(text, known) {
  const words = text.toUpperCase().split(/[\s,;]+/).filter(Boolean).map((word) => word.slice(0, MAX_SYMBOL));
  return words.map((word) => {
    if (word.includes(":") || word === "*") return word;
    const matching = known.filter((symbol) => symbol.endsWith(`:${word}`));
    return matching.length === 1 ? matching[0] : word;
  });
}

/** Return what the address asks for; `symbols` is null if it does not say. */
export function readHash(hash) {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const symbols = fields.get("symbols");
  return {
    symbols: symbols === null ? null : [...new Set(entriesOf(symbols, []))].slice(0, MAX_ENTRIES),
    transport: fields.get("transport"),
  };
}

/** Put the choice into the address; a link to it shows the same. `symbols` null: not chosen. */
export function writeHash(symbols, transport) {
  // Legible where that is safe; a plus sign would be read as a blank.
  const list = symbols?.map((symbol) => encodeURIComponent(symbol).replaceAll("%3A", ":").replaceAll("%2F", "/"));
  const fields = list ? [`symbols=${list.join(",")}`] : [];
  history.replaceState(null, "", `#${[...fields, `transport=${transport}`].join("&")}`);
}
