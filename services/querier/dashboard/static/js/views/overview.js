// The mesh at a glance.
import { get } from "../api.js";
import { sparkline } from "../charts.js";
import { card, chip, empty, h, loading, put, stats } from "../dom.js";
import { count, number, percent, seconds, span, words } from "../format.js";
import { poll } from "../poll.js";
import { eventHeads, eventList, notice } from "../shared.js";
import { shortKey } from "../text.js";
import { curve } from "./curve.js";

const TOP = 8;
const MEANWHILE = {
  trainer: "Nothing is asked for training meanwhile.",
  gating: "Miners are chosen by their scores meanwhile.",
  reward: "Answers are not judged meanwhile, and count for no score.",
  weights: "Scores and weights stand still meanwhile.",
  history: "Answers go on; events wait on disk.",
};
const STATES = { up: "good", degraded: "warn", away: "bad" };
const ROLES = {
  querier: "asks miners, answers users",
  trainer: "keeps asking, to learn",
  gating: "chooses whom to ask",
  reward: "judges completions",
  weights: "scores, sets weights",
  history: "the events, in Redis",
};

export function overview(main, frame) {
  const warning = notice();
  const locked = notice();
  const numbers = h("div", {}, stats([["Miners to ask", "\u2013"], ["Events a minute", "\u2013"], ["Events scored", "\u2013"], ["Block", "\u2013"]]));
  const services = h("ul.services", { "aria-label": "Services" }, Object.keys(ROLES).map(waiting));
  const list = eventList(8, { brief: true });
  const heads = eventHeads("Best reward");
  const none = h("div", {}, loading());
  const topHeads = h("div.tops.heads", { "aria-hidden": "true" }, h("div", {}, h("span"), h("span", {}, "Uid"), h("span", {}, "Hotkey"), h("span.spark-head", {}, "Last rewards"), h("span.share", {}, "Weight")));
  const tops = h("ol.tops", { "aria-label": "Miners with the highest scores" });
  const noTops = h("div", {}, loading());
  const learning = curve({ short: true });
  put(
    main,
    h("div.head", {}, h("h1", {}, "Overview")),
    warning.element,
    locked.element,
    numbers,
    h("section.section", {}, h("h2", {}, "Services"), services),
    h("div.grid.section.reserved", {},
      card("Top miners", { flush: true, span: "w6", more: h("a", { href: "#/miners" }, "All miners") }, topHeads, tops, noTops),
      card("Live events", { flush: true, span: "w6", more: h("a", { href: "#/events" }, "All events") }, heads, list.element, none),
      card("What gating has learnt", { more: h("a", { href: "#/gating" }, "More") }, learning.element)),
  );
  for (const one of [tops, topHeads, list.element, heads]) one.hidden = true;

  const unwatch = frame.watch((mesh, problem) => {
    if (problem) {
      warning.say(problem);
      return;
    }
    if (mesh.held) warning.stale(`Weights are held: ${mesh.held.replace(/\.$/, "")}`, 0);
    else warning.clear();
    put(numbers, stats([
      ["Miners to ask", count(mesh.available), `of ${count(mesh.size)} uids`],
      ["Events a minute", mesh.per_minute === null ? "\u2013" : number(mesh.per_minute, mesh.per_minute < 10 ? 1 : 0), mesh.per_minute === null ? null : "of late"],
      ["Events scored", count(mesh.scored_events), mesh.scored_events === null ? null : "since the beginning"],
      ["Block", count(mesh.block), mesh.metagraph_age_s === null ? null : `of the chain, read ${span(mesh.metagraph_age_s)} ago`],
    ]));
    put(services, mesh.services.map(service));
  });

  let last = "0-0";
  const follow = poll(2000, async () => {
    const found = await get(`events?count=8&after=${last}`);
    last = found.last_id;
    locked.clear();
    list.take(found.events);
    none.hidden = list.element.children.length > 0;
    put(none, empty("No events yet", "The trainer asks its first question in a few seconds."));
    list.element.hidden = !none.hidden;
    heads.hidden = !none.hidden;
  }, (problem) => { if (problem.status === 401) locked.say(problem, frame); });
  const board = poll(4000, async () => {
    const found = await get("leaderboard");
    const rows = found.rows.filter((row) => row.score > 0).sort((a, b) => b.score - a.score).slice(0, TOP);
    put(tops, rows.map(top));
    noTops.hidden = rows.length > 0;
    put(noTops, empty("No scores yet", "They follow from the first events."));
    tops.hidden = rows.length === 0;
    topHeads.hidden = tops.hidden;
  });
  const lessons = poll(6000, async () => learning.update(await get("learning")));
  return () => {
    unwatch();
    for (const one of [follow, board, lessons, learning]) one.stop();
  };
}

function waiting(name) {
  return h("li.service", {}, h("div", {}, h("h3", {}, name), h("span.chip", {}, "asking")), h("p", {}, ROLES[name]));
}

function service(one) {
  const lag = one.lag_events === null ? null
    : one.lag_events === 0 ? "knows every event" : `${seconds(one.lag_s)} behind`;
  const behind = one.lag_events ? `has yet to take in ${count(one.lag_events)} ${one.lag_events === 1 ? "event" : "events"} of the history` : null;
  const why = one.problems.map((text) => h("p.why", {}, text));
  if (one.state === "away") why.push(h("p", {}, meanwhile(one)));
  return h(`li.service.${one.state}`, {},
    h("div", {}, h("h3", {}, one.name), chip(one.state, STATES[one.state])),
    ...(why.length ? why : [h("p", {}, told(one) ?? ROLES[one.name])]),
    h("p.small", { title: behind }, [one.version && `v${one.version}`, lag].filter(Boolean).join(" \u00b7 ")));
}

/** What the mesh does without a service. */
function meanwhile({ name, facts }) {
  if (name === "history") return facts.waiting ? `Answers go on; ${count(facts.waiting)} events wait on disk.` : MEANWHILE.history;
  return MEANWHILE[name] ?? "";
}

function told({ name, facts }) {
  if (name === "trainer" && facts.leading !== undefined) return facts.leading ? `asked ${count(facts.steps)} times to learn` : "stands by for the one that leads";
  if (name === "gating" && facts.rule) return `rule ${words(facts.rule)}, version ${count(facts.head)}`;
  if (name === "reward" && facts.functions) return `judges by ${words(facts.functions)}`;
  if (name === "weights" && facts.rule) return `by the rule ${words(facts.rule)}`;
  if (name === "querier") return `${count(facts.available)} miners to ask`;
  if (name === "history") return facts.waiting ? `${count(facts.waiting)} events wait on disk` : ROLES.history;
  return null;
}

function top(row, i) {
  return h("li", {}, h("a", { href: `#/miners/${row.uid}` },
    h("span.rank", {}, String(i + 1)),
    h("b", {}, String(row.uid)),
    h("span.key", {}, shortKey(row.hotkey)),
    sparkline(row.rewards, `rewards of its last ${row.rewards.length} requests`),
    h("span.share", { title: "share of the weights" }, percent(row.weight))));
}
