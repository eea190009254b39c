/** Numbers and times as text. */

const COUNT = new Intl.NumberFormat("en-US");
const RATE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** Stands for what there is none of. */
export const NONE = "–";
/** A clock that is fast by more than this is worth knowing about. */
const SKEW_MS = 1000;

/** Return nanoseconds of Unix time, a string, as milliseconds: all digits would not fit a number. */
export const millisOf = (nanos) => Number(nanos.slice(0, -6));

export const count = (number) => COUNT.format(number);

export const rate = (perSecond) => (perSecond < 99.95 ? RATE : COUNT).format(perSecond < 99.95 ? perSecond : Math.round(perSecond));

/** Return how many digits stand behind the point, zeros at the end left out; 8 at most. */
export function decimalsOf(text) {
  const [mantissa, exponent] = text.split(/e/i);
  const digits = (mantissa.split(".")[1] ?? "").replace(/0+$/, "").length - Number(exponent ?? 0);
  return Math.min(8, Math.max(0, digits));
}

/** Return a price in two parts, together as it was sent: what it says, and the zeros a venue pads it with. */
export function splitZeros(text) {
  const padded = /^(-?\d+\.\d\d\d*?)(0{2,})$/.exec(text);
  return padded ? [padded[1], padded[2]] : [text, ""];
}

/** Return a number with its sign, the true minus included. */
export function signed(number, decimals) {
  const text = Math.abs(number).toFixed(decimals);
  if (Number(text) === 0) return text;
  return (number > 0 ? "+" : "−") + text;
}

/** Return how long ago something was; a clock that is ahead of ours makes it negative. */
export function age(ms) {
  if (ms < -SKEW_MS) return NONE;
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  if (seconds < 365 * 86_400) return `${Math.floor(seconds / 86_400)} d`;
  return `${(seconds / (365.25 * 86_400)).toFixed(1)} y`;
}
