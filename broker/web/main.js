/** Puts the page together: the address and the controls, the client, the model, the table. */

import { Client } from "./client.js";
import { Model } from "./model.js";
import * as panel from "./panel.js";
import { Table } from "./table.js";
import { TRANSPORTS } from "./transports.js";
import { DEFAULT_ENTRIES, MAX_ENTRIES, entriesOf, readHash, writeHash } from "./watchlist.js";

const MEASURE_MS = 1000;
/** The list of what there is grows old so fast, and is asked for again so soon if it could not be read. */
const KNOWN_MS = 15_000;
const SYMBOLS_RETRY_MS = 2000;
/** A list of more symbols is of no help to anybody who types. */
const MAX_SUGGESTIONS = 2000;

const isTransport = (name) => Object.hasOwn(TRANSPORTS, name);

class Page {
  #model = new Model();
  #table = new Table(this.#model, (symbol) => this.#remove(symbol));
  #client;
  #transport;
  #entries = [];
  /** Whether somebody chose the entries; else they follow from what the broker has, and stay out of the address. */
  #isChosen = false;
  /** Entries that were added by hand and not answered yet: if the broker knows nothing of them they go again. */
  #added = new Set();
  /** Rejected entries that stay: a symbol may come back with its feed. */
  #rejected = new Map();
  #known = [];
  #knownAt = -Infinity;
  #frame = 0;

  async start() {
    const { symbols, transport } = readHash(location.hash);
    this.#transport = isTransport(transport) ? transport : "ws";
    this.#client = new Client(this.#transport, {
      onState: (state) => this.#onState(state),
      onBegin: (isResumed) => this.#model.begin(isResumed),
      onMessage: (message) => this.#onMessage(message),
      onRefused: (error) => this.#onRefused(error),
    });
    this.#listen();
    setInterval(() => this.#refresh(), 250);
    let measuredAt = performance.now();
    setInterval(() => {
      const now = performance.now();
      this.#model.measure((now - measuredAt) / 1000);
      measuredAt = now;
    }, MEASURE_MS);
    this.#checkTransport();
    if (symbols !== null) {
      this.#choose(symbols);
      await this.#learn();
    } else {
      await this.#chooseDefault();
    }
  }

  #listen() {
    for (const input of document.querySelectorAll("[name=transport]")) {
      input.addEventListener("change", () => this.#use(input.value));
    }
    document.getElementById("add").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add();
    });
    const field = document.getElementById("symbol");
    field.addEventListener("focus", () => this.#learn());
    field.addEventListener("input", () => panel.complain(""));
    document.getElementById("retry").addEventListener("click", () => {
      this.#client.retry();
      this.#client.restart();
    });
    document.getElementById("copy").addEventListener("click", panel.copyCurl);
    addEventListener("hashchange", () => this.#onAddress());
  }

  // ── what is watched ──────────────────────────────────────────────────────────────────────────

  /** Watch what the broker has, up to a number; everything there will be, if it does not know yet. */
  async #chooseDefault() {
    while (!(await this.#learn())) {
      panel.showState({ phase: "connecting" }, this.#transport);
      await new Promise((resolve) => setTimeout(resolve, SYMBOLS_RETRY_MS));
    }
    if (this.#isChosen) return;
    this.#watch(this.#known.length ? this.#known.slice(0, DEFAULT_ENTRIES) : ["*"]);
  }

  /** Read which symbols there are; return whether that worked. */
  async #learn() {
    if (performance.now() - this.#knownAt < KNOWN_MS) return true;
    try {
      const response = await fetch("/v1/symbols");
      if (!response.ok) return false;
      const { symbols } = await response.json();
      this.#known = symbols.map(({ symbol }) => symbol);
    } catch {
      return false;
    }
    this.#knownAt = performance.now();
    panel.showKnown(this.#known.slice(0, MAX_SUGGESTIONS));
    return true;
  }

  /** Watch these, and remember it in the address. */
  #choose(entries) {
    this.#isChosen = true;
    this.#watch(entries);
    this.#remember();
  }

  #watch(entries) {
    this.#show(entries);
    this.#client.watch(entries);
  }

  #show(entries) {
    this.#entries = entries;
    for (const entry of this.#rejected.keys()) if (!entries.includes(entry)) this.#rejected.delete(entry);
    this.#model.watch(entries);
    this.#table.watch(entries);
    panel.showCurl(entries);
    this.#showChips();
  }

  #showChips() {
    panel.showChips(this.#entries, this.#rejected, (entry) => this.#remove(entry));
  }

  #add() {
    const field = document.getElementById("symbol");
    const entries = [...new Set(entriesOf(field.value, this.#known))];
    const added = entries.filter((entry) => !this.#entries.includes(entry));
    if (!entries.length) return;
    if (!added.length) {
      panel.complain(panel.complaintOf([{ symbol: entries[0], code: "already_subscribed" }]));
      return;
    }
    if (this.#entries.length + added.length > MAX_ENTRIES) {
      panel.complain(`${MAX_ENTRIES} entries are the most; a pattern like SIM:* counts as one`);
      return;
    }
    panel.complain("");
    field.value = "";
    this.#added = new Set(added);
    this.#choose([...this.#entries, ...added]);
  }

  #remove(entry) {
    const keepFocus = panel.holdFocus();
    panel.complain("");
    this.#choose(this.#entries.filter((other) => other !== entry));
    keepFocus();
  }

  /** Somebody edited the address, or went back to another one. */
  #onAddress() {
    const { symbols, transport } = readHash(location.hash);
    if (isTransport(transport)) this.#use(transport);
    this.#checkTransport();
    panel.complain("");
    if (symbols !== null) this.#choose(symbols);
  }

  #use(transport) {
    this.#transport = transport;
    this.#client.use(transport);
    this.#remember();
  }

  #checkTransport() {
    document.querySelector(`[name=transport][value=${this.#transport}]`).checked = true;
  }

  #remember() {
    writeHash(this.#isChosen ? this.#entries : null, this.#transport);
  }

  // ── what the broker says ─────────────────────────────────────────────────────────────────────

  #onState(state) {
    panel.showState(state, this.#transport);
    panel.showCountdown(state, performance.now());
    // Another broker may be there, with other symbols.
    if (state.phase === "waiting") this.#knownAt = -Infinity;
  }

  #onMessage(message) {
    this.#model.take(message, performance.now());
    if (message.type === "ack" && message.op === "subscribe") this.#sort(message.symbols, message.rejected);
    this.#schedule();
  }

  /** Take note of what was accepted and what was not. */
  #sort(accepted, rejected) {
    for (const symbol of accepted) this.#rejected.delete(symbol);
    // The second answer, the trades', says the same again.
    const news = rejected.filter(({ symbol }) => this.#entries.includes(symbol) && !this.#rejected.has(symbol));
    for (const { symbol, code } of news) this.#rejected.set(symbol, code);
    if (news.length) panel.complain(panel.complaintOf(news));
    const left = this.#takeBack(new Set(news.map(({ symbol }) => symbol)));
    this.#added.clear();
    if (left) {
      // What the broker has in force is this list already.
      this.#show(left);
      this.#client.amend(left);
      this.#remember();
    } else {
      this.#showChips();
    }
  }

  /** Nothing was accepted. */
  #onRefused({ message }) {
    panel.complain(message);
    const left = this.#takeBack(this.#added);
    this.#added = new Set();
    if (left) this.#choose(left);
  }

  /** Return the list without those of the symbols that were only just added, and put them back into the field;
   * null if there are none. */
  #takeBack(symbols) {
    const mistaken = this.#entries.filter((entry) => symbols.has(entry) && this.#added.has(entry));
    if (!mistaken.length) return null;
    const field = document.getElementById("symbol");
    if (!field.value) field.value = mistaken.join(" ");
    return this.#entries.filter((entry) => !mistaken.includes(entry));
  }

  // ── painting ─────────────────────────────────────────────────────────────────────────────────

  /** What changes with time. */
  #refresh() {
    if (document.hidden) return;
    panel.showCountdown(this.#client.state, performance.now());
    panel.showTotals(this.#model, Date.now());
    this.#schedule();
  }

  /** Paint in the next frame; in a hidden tab there is none until it is looked at again. */
  #schedule() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (!this.#table.paint(performance.now(), Date.now())) this.#schedule();
    });
  }
}

new Page().start();
