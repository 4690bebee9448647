// The weights service's account of a score: recomputed from the history, event by event.
import { get } from "../api.js";
import { chip, empty, h, put } from "../dom.js";
import { clock, count, number, percent, words } from "../format.js";
import { line } from "../text.js";

const ROWS = 30;

export function explanation(uid, frame) {
  const element = h("div.explain");
  let gone = false;

  async function load() {
    if (!frame.mesh.viewer.asks) {
      put(element, locked());
      return;
    }
    put(element, h("p.muted", { role: "status" }, "Asking the weights service, which reads the history\u2026"));
    try {
      const found = await get(`miners/${uid}/explanation`, { timeout: 40000 });
      if (!gone) put(element, ...(found.available ? account(found.explanation) : [missing(found.reason)]), again());
    } catch (problem) {
      if (gone) return;
      put(element, ...(problem.status === 401 ? [locked()] : [missing(problem.message), again()]));
    }
  }

  const locked = () => h("div", {}, empty("Needs a key", "An explanation reads the whole history, so it is made for callers."),
    h("p.row.centred", {}, h("button", { type: "button", on: { click: () => frame.openKey() } }, "Enter a key")));
  const again = () => h("p.row", {}, h("button.small", { type: "button", on: { click: load } }, "Explain again"));
  const missing = (reason) => empty("Not available", reason ? `${sentence(line(reason, 300))}.`.replace(/\.\.$/, ".") : "The weights service gives no explanation.");
  // Once it is known whether this viewer may ask.
  let begun = false;
  const unwatch = frame.watch((mesh) => {
    if (!mesh || begun) return;
    begun = true;
    load();
  });
  return {
    element,
    stop: () => {
      gone = true;
      unwatch();
    },
  };
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function account(found) {
  const events = found.steps.filter((step) => step.what === "event");
  const failed = events.filter((step) => step.reward === null).length;
  const first = events.find((step) => step.before)?.before;
  const last = events.findLast((step) => step.after)?.after;
  const moved = first && last ? last.score - first.score : null;
  const way = moved === 0 ? "did not move" : `went ${moved < 0 ? "down" : "up"} by ${number(Math.abs(moved), 4)}`;
  const said = [
    `${found.excluded ? "A" : `Rank ${count(found.rank)} with a`} score of ${number(found.standing.score, 4)}${found.weight === null ? "" : `, ${percent(found.weight, 2)} of the weights`}, after ${times(found.standing.successes, "success", "successes")} and ${times(found.standing.failures, "failure", "failures")} in ${times(found.events, "scored event", "scored events")}.`,
    found.excluded && "It is a validator over the stake limit, so it is scored 0.",
    events.length > 0 && `In the last ${count(events.length)} that asked it, it failed ${failed ? times(failed, "time", "times") : "never"}${moved === null ? "" : ` and its score ${way}`}.`,
    found.note && `${sentence(line(found.note, 300)).replace(/\.$/, "")}.`,
  ].filter(Boolean).join(" ");
  return [
    h("p", {}, said),
    last && events.length > 0 && h("p.muted.small", {}, `As of ${clock(found.steps.at(-1).time_ms)}. Target is what the event alone would make of the score; each event moves the score a small step towards it.`),
    h("p.row", {}, chip(found.agrees ? "recomputed bit for bit" : "not recomputed", found.agrees ? "good" : "warn"), h("span.muted.small", {}, `rule ${line(found.rule, 160)}`)),
    events.length > 0 ? steps(found.steps) : h("p.muted", {}, "None of the scored events that are kept asked it."),
  ];
}

const times = (n, one, more) => `${count(n)} ${n === 1 ? one : more}`;
// What a phone has no room for.
const WIDE = new Set(["What", "Target"]);

function steps(all) {
  const heads = ["When", "What", "Target", "Reward", "Place", "Score", "Change"];
  return h("div.scroll.tall", { tabindex: "0", role: "region", "aria-label": "The events behind the score, newest first" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((name, i) => h(`th${i > 1 ? ".num" : ""}${WIDE.has(name) ? ".wide-only" : ""}`, { scope: "col" }, name)))),
    h("tbody", {}, all.slice(-ROWS).reverse().map((step) => h("tr", {}, (step.what === "event" ? eventCells : resetCells)(step))))));
}

function eventCells(step) {
  const { before, after } = step;
  const better = step.rewards.filter((one) => one !== null && step.reward !== null && one > step.reward).length;
  const change = before && after ? after.score - before.score : null;
  const sign = change === null ? "" : change > 0 ? "+" : change < 0 ? "\u2212" : "\u00b1";
  return [
    h("td", {}, h("a", { href: `#/events/${step.event_id}` }, clock(step.time_ms))),
    h("td.wide-only", { title: line(step.note, 200) }, step.counted ? words(step.kind) : "not counted"),
    h("td.num.wide-only", {}, step.reward === null && step.counted ? "0" : number(step.share)),
    h("td.num", {}, step.reward === null ? words(step.status) : number(step.reward)),
    h("td.num", {}, step.reward === null ? "\u2013" : `${better + 1} of ${step.asked}`),
    h("td.num", {}, after ? number(after.score, 4) : "\u2013"),
    h(`td.num${change > 0 ? ".up" : change < 0 ? ".down" : ""}`, {}, change === null ? "\u2013" : `${sign}${number(Math.abs(change), 5)}`),
  ];
}

function resetCells(step) {
  const lost = step.before.score - step.after.score;
  return [
    h("td", {}, clock(step.time_ms)),
    h("td.wide-only", {}, "started again"),
    h("td.wide-only", {}),
    h("td.num.told", { colspan: "2" }, line(step.reason, 120)),
    h("td.num", {}, number(step.after.score, 4)),
    h(`td.num${lost ? ".down" : ""}`, {}, `${lost ? "\u2212" : "\u00b1"}${number(Math.abs(lost), 5)}`),
  ];
}
