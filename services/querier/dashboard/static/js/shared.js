// What several views show alike.
import { chip, h, put } from "./dom.js";
import { clock, count, number, seconds, statusKind, words } from "./format.js";
import { KINDS, STATUSES } from "./terms.js";
import { shortKey } from "./text.js";

const ended = (text) => (/[.!?]$/.test(text) ? "" : ".");

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A line under a view's title that says what is wrong; hidden while nothing is. */
export function notice() {
  const element = h("p.notice", { role: "status", hidden: true });
  return {
    element,
    clear: () => { element.hidden = true; },
    say(problem, frame = null) {
      const locked = problem.status === 401;
      element.classList.toggle("bad", !locked && problem.status !== undefined);
      put(element, `${sentence(problem.message)}${ended(problem.message)}${problem.remedy && !locked ? ` ${problem.remedy}` : ""}`,
        locked && frame && h("button", { type: "button", on: { click: () => frame.openKey() } }, "Enter a key"));
      element.hidden = false;
    },
    /** Something is old rather than broken. */
    stale(why, age) {
      if (!why) {
        element.hidden = true;
        return;
      }
      element.classList.remove("bad");
      put(element, `${sentence(why)}.${age >= 1 ? ` What is shown is ${seconds(age)} old.` : ""}`);
      element.hidden = false;
    },
  };
}

export function statusChip(status) {
  return chip(words(status), statusKind(status), STATUSES[status]);
}

/** `named` where no column's head says that the number is a uid. */
export function minerLink(uid, hotkey = null, { named = false } = {}) {
  return h("a", { href: `#/miners/${uid}` }, named ? `uid ${uid}` : String(uid), hotkey !== null && h("span.key", {}, ` ${shortKey(hotkey)}`));
}

const COLOURS = { inference: "accent", question: "", answer: "", forward: "accent", metagraph: "warn" };

/** A line of the list of events. */
export function eventLine(row, { fresh = false, brief = false } = {}) {
  const time = h("time", { datetime: new Date(row.time_ms).toISOString() }, clock(row.time_ms));
  const kind = h("span.kind", {}, h(`span.chip${COLOURS[row.kind] ? `.${COLOURS[row.kind]}` : ""}`, { title: KINDS[row.kind] }, words(row.kind)));
  if (row.kind === "metagraph") {
    const what = row.changes ? `${count(row.changes)} ${row.changes === 1 ? "uid" : "uids"} changed` : "permits changed";
    return h("li", {}, h(`div.still${fresh ? ".fresh" : ""}`, {}, time, kind, h("span.what", {}, what), h("span.end.muted.small", {}, `block ${count(row.block)}`)));
  }
  const what = [
    `${row.succeeded} of ${row.asked} answered`,
    row.best_uid !== null && `best uid ${row.best_uid}`,
    !brief && row.slowest_s !== null && `slowest ${seconds(row.slowest_s)}`,
  ].filter(Boolean).join(" \u00b7 ");
  const end = h("span.end", {}, row.own_status ? own(row) : row.degraded.length ? chip(`without ${row.degraded.map(words).join(", ")}`, "warn") : h("b", {}, row.best_reward !== null ? number(row.best_reward) : "\u2013"));
  return h("li", {}, h(`a${fresh ? ".fresh" : ""}`, { href: `#/events/${row.event_id}` }, time, kind, h("span.what", {}, what), end));
}

function own(row) {
  return row.own_status === "ok" ? h("b", {}, number(row.own_reward)) : statusChip(row.own_status);
}

/** The heads of a list of events; `last` is what its numbers are. */
export function eventHeads(last) {
  return h("div.events.heads", { "aria-hidden": "true" }, h("div.still", {}, h("span", {}, "Time"), h("span.kind", {}, "Kind"), h("span.what", {}, "What came back"), h("span.end", {}, last)));
}

/** A bounded list of events that asks only for what is new. Gives {element, take(rows)}. */
export function eventList(most, { brief = false } = {}) {
  const element = h("ol.events", { "aria-label": "Events, newest first" });
  let seen = false;
  return {
    element,
    take(rows) {
      for (const row of [...rows].reverse()) element.prepend(eventLine(row, { fresh: seen, brief }));
      while (element.children.length > most) element.lastElementChild.remove();
      seen = true;
    },
  };
}
