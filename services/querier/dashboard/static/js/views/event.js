// One forward: whom it asked, what came back, how it was judged.
import { get } from "../api.js";
import { card, empty, h, put, stats } from "../dom.js";
import { count, number, seconds, when, words } from "../format.js";
import { minerLink, notice, statusChip } from "../shared.js";
import { KINDS } from "../terms.js";
import { line, tame } from "../text.js";

export function event(main, frame, id) {
  const warning = notice();
  const body = h("div", {}, h("p.muted", {}, "Loading\u2026"));
  put(main,
    h("div.head", {}, h("div", {}, h("h1", {}, "Event"), h("p.mono.small", {}, id)), h("p.right", {}, h("a", { href: "#/events" }, "All events"))),
    warning.element, body);
  let gone = false;
  get(`events/${id}`).then((found) => { if (!gone) put(body, shown(found)); }, (problem) => {
    if (gone) return;
    put(body, problem.status === 404 ? empty("Not among the newest events", "This page knows the last 2,000; the history has the rest.") : []);
    if (problem.status !== 404) warning.say(problem, frame);
  });
  return () => { gone = true; };
}

function shown(found) {
  const { event: row, miners } = found;
  const parts = [...new Set(miners.flatMap((one) => Object.keys(one.parts)))].slice(0, 8);
  return [
    stats([
      ["Kind", words(row.kind), KINDS[row.kind] ?? null],
      ["Answered", `${row.succeeded}`, `of ${row.asked} asked, ${count(found.available)} available`],
      ["Best reward", number(row.best_reward), row.best_uid === null ? null : `uid ${row.best_uid}`],
      ["Slowest", seconds(row.slowest_s)],
    ]),
    h("p.section.small.muted", {}, [when(row.time_ms), `block ${count(row.block)}`, `gating head ${count(found.head_version)}`, found.stack_version && `reward stack ${line(found.stack_version, 20)}`, row.flags.map(words).join(", "), row.degraded.length && `without ${row.degraded.map(words).join(", ")}`].filter(Boolean).join(" \u00b7 ")),
    h("div.grid.section", {},
      found.prompt?.length && card("Prompt", {}, h("div.prompt", {}, found.prompt.map(turn))),
      !found.texts && h("p.hint", {}, "Prompt and completions are shown to this validator's operator."),
      card("Miners", {
        flush: true,
        hint: `Gating: what the gating head expected of each, higher is better.${parts.length ? " The columns after the latency are what the reward functions gave and what each mask lets through, from 0 to 1." : ""}`,
      }, h("div.scroll.pinned", { tabindex: "0", role: "region", "aria-label": "Miners of this event" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Uid", "Status", "Reward", "Gating", "Latency", ...parts].map((name, i) => h(`th${i > 1 ? ".num" : ""}`, { scope: "col" }, words(line(name, 40)))))),
        h("tbody", {}, miners.map((one) => minerRow(one, parts)))))),
      miners.some((one) => one.completion) && card("Completions", { flush: true }, h("ol.completions", {}, miners.filter((one) => one.completion).map(completion)))),
  ];
}

function minerRow(one, parts) {
  return h("tr", {},
    h("td", {}, minerLink(one.uid, one.hotkey)),
    h("td", {}, statusChip(one.status)),
    h("td.num", {}, number(one.reward)),
    h("td.num", {}, number(one.gating)),
    h("td.num", {}, seconds(one.latency_s)),
    parts.map((name) => h("td.num", {}, number(one.parts[name]))));
}

function turn(message) {
  return h("div", {}, h("p.role", {}, line(message.role, 20)), text(message.content, message.chars));
}

function completion(one) {
  return h("li", {},
    h("div.meta", {}, minerLink(one.uid, one.hotkey, { named: true }), statusChip(one.status), h("span.reward", {}, one.reward !== null && h("span.muted", {}, "reward "), number(one.reward))),
    text(one.completion, one.chars));
}

/** A stranger's text, cut and tamed. */
export function text(raw, chars = null) {
  const tamed = tame(raw, undefined, chars);
  return [h("p.text", { dir: "auto" }, tamed.text), tamed.cut && h("p.cut", {}, `The first ${count(tamed.shown)} of ${count(tamed.chars)} characters.`)].filter(Boolean);
}
