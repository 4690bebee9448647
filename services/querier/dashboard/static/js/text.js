// Texts of strangers, made safe to look at. What is dangerous about them here is not markup (see dom.js) but characters
// that cannot be seen, turn the line around, or never end.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\uffff]|[\u{e0000}-\u{e0fff}]/gu;
const MARKS = /(\p{M}{4})\p{M}+/gu;
export const SHOWN = 4000;

function visible(character) {
  return `\u27e8${character.codePointAt(0).toString(16).padStart(4, "0").toUpperCase()}\u27e9`;
}

/**
 * A text with what cannot be seen spelt out, cut after `limit` characters. Gives {text, shown, cut, chars}. Characters are
 * counted as the querier does, which tells `chars` of a text that it cut: an emoji is one, though two units of a string.
 */
export function tame(raw, limit = SHOWN, chars = null) {
  const whole = typeof raw === "string" ? raw : String(raw ?? "");
  const kept = [...whole.slice(0, 2 * limit)].slice(0, limit);
  const text = kept.join("").replaceAll("\r\n", "\n").replace(HIDDEN, visible).replace(MARKS, "$1");
  const all = chars ?? [...whole].length;
  return { text, shown: kept.length, cut: all > kept.length, chars: all };
}

/** One line of a stranger's. */
export function line(raw, limit = 120) {
  const { text, cut } = tame(raw, limit);
  return text.replace(/\s+/g, " ") + (cut ? "\u2026" : "");
}

/** A hotkey in short: its ends tell it apart. */
export function shortKey(hotkey) {
  const text = line(hotkey, 80);
  return text.length > 16 ? `${text.slice(0, 6)}\u2026${text.slice(-6)}` : text || "unknown";
}
