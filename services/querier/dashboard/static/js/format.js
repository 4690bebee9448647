// Numbers and times as people read them.
const NONE = "\u2013";
const whole = new Intl.NumberFormat("en");

export const count = (n) => (n === null || n === undefined ? NONE : whole.format(n));
export const number = (x, digits = 3) => (x === null || x === undefined ? NONE : x.toFixed(digits));
export function percent(x, digits = 1) {
  return x === null || x === undefined ? NONE : `${(x * 100).toFixed(digits)}%`;
}
export function seconds(s) {
  if (s === null || s === undefined) return NONE;
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  return s < 99.5 ? `${s.toFixed(s < 9.95 ? 2 : 1)} s` : span(s);
}
/** A length of time, roughly. */
export function span(s) {
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}
export function ago(ms, now = Date.now()) {
  const s = Math.max(0, (now - ms) / 1000);
  return s < 1.5 ? "now" : `${span(s)} ago`;
}
export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
export const when = (ms) => new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const words = (name) => name.replaceAll("_", " ");

/** A chip's kind for a miner's status. */
export function statusKind(status) {
  if (status === "ok") return "good";
  return ["pending", "not_sent", "short", "empty"].includes(status) ? "warn" : "bad";
}
/** A chip's kind for what became of a submission. */
export function resultKind(result) {
  if (result === "landed" || result === "revealed") return "good";
  if (result === "failed") return "bad";
  return result === "held" ? "warn" : "accent";
}
