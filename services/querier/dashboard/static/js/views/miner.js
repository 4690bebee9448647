// One miner: its standing, its last requests, and why it has its score.
import { get } from "../api.js";
import { chart } from "../charts.js";
import { bar, card, empty, facts, h, loading, put, stats } from "../dom.js";
import { clock, count, number, percent, seconds, words } from "../format.js";
import { poll } from "../poll.js";
import { eventHeads, eventLine, notice } from "../shared.js";
import { STATUSES } from "../terms.js";
import { line } from "../text.js";
import { explanation } from "./explanation.js";

const ROLES = { miner: "miner", validator: "validator: never asked, scored 0", self: "this validator", silent: "publishes no axon" };
const ASKED = new Set(["miner"]);
const MEAN_OVER = 20;

export function miner(main, frame, uid) {
  const warning = notice();
  const title = h("h1", {}, `Miner ${uid}`);
  const under = h("p.mono.small", {}, "\u00a0");
  const numbers = h("div", {}, stats([["Score", "\u2013"], ["Weight", "\u2013"], ["Success", "\u2013"], ["Latency", "\u2013"], ["Reward", "\u2013"]]));
  let shown = [];
  const pointed = h("li.at", {}, "\u00a0");
  const plot = chart({
    point: (at) => {
      const one = shown[at];
      pointed.textContent = one ? `${clock(one.time_ms)}: ${one.status === "ok" ? `reward ${number(one.reward)}` : words(one.status)} after ${seconds(one.latency_s)}` : "\u00a0";
    },
    series: [
      { label: "reward", colour: "accent", points: true },
      { label: "failure", colour: "bad", points: true, size: 6 },
      { label: `mean of ${MEAN_OVER}`, colour: "second" },
    ],
    describe: ([x, rewards, failed]) => `Rewards of its last ${x.length} requests, ${failed.filter((one) => one !== null).length} of them failures.`,
  });
  const legend = h("ul.legend", {}, h("li", {}, h("i.good"), "reward"), h("li", {}, h("i.bad"), "failure"), h("li", {}, h("i.second"), `mean of ${MEAN_OVER}, a failure counts 0`), pointed);
  const none = h("div", {}, loading());
  const history = h("div", {}, legend, plot.element);
  const statuses = h("ul.breakdown");
  const details = h("div");
  const heads = eventHeads("Its reward");
  const recent = h("ol.events", { "aria-label": "Its newest events" });
  const why = explanation(uid, frame);
  const parts = h("div", {},
    numbers,
    h("div.grid.section", {},
      card("Last requests", { span: "w8" }, history, none),
      card("How they ended", { span: "w4" }, statuses),
      card("Why this score", { span: "w8" }, why.element),
      card("On the chain", { span: "w4" }, details),
      card("Newest events that asked it", { flush: true }, heads, recent)));
  put(main,
    h("div.head", {}, h("div", {}, title, under), h("p.right", {}, h("a", { href: "#/miners" }, "All miners"))),
    warning.element,
    parts);
  heads.hidden = true;
  history.hidden = true;

  const follow = poll(3000, async () => {
    let page;
    try {
      page = await get(`miners/${uid}`);
    } catch (problem) {
      if (problem.code === "bad_uid") missing(problem);
      else throw problem;
      return;
    }
    warning.stale(page.stale, 0);
    const { row } = page;
    under.textContent = line(row.hotkey, 80);
    put(numbers, stats([
      ["Score", number(row.score, 4), page.rank ? `rank ${page.rank}` : null],
      ["Weight", percent(row.weight, 2), row.on_chain === null ? null : `on chain ${percent(row.on_chain, 2)}`],
      ["Success", percent(row.success, 0), row.asked ? `of ${row.asked}` : null],
      ["Latency", seconds(row.latency_s), row.latency_s === null ? null : "median"],
      ["Reward", number(row.reward), row.reward === null ? null : "mean"],
    ]));
    draw(page.samples, row.role);
    const all = Object.values(page.statuses).reduce((sum, n) => sum + n, 0);
    put(statuses, Object.entries(page.statuses).map(([status, n]) => h("li", {},
      h("span", {}, words(status)), bar(n / all, status === "ok" ? "" : ".failed"), h("span.share", {}, `${n} \u00b7 ${percent(n / all, 0)}`),
      status !== "ok" && STATUSES[status] && h("small", {}, STATUSES[status]))));
    if (!all) put(statuses, h("li.muted", {}, ASKED.has(row.role) ? "Not asked yet." : "Never asked."));
    put(details, facts([
      ["Role", ROLES[row.role]],
      ["Coldkey", h("span.mono.small", {}, line(page.coldkey, 80))],
      ["Stake", `${count(Math.round(page.stake))} TAO`],
      ["Registered", `block ${count(page.registered_at)}`],
      ["Scored", page.successes === null ? null : `${count(page.successes)} ${page.successes === 1 ? "success" : "successes"}, ${count(page.failures)} ${page.failures === 1 ? "failure" : "failures"}`],
      ["Scored since", page.reset_block ? `block ${count(page.reset_block)}` : null],
    ]));
    put(recent, page.events.map((one) => eventLine(one)));
    heads.hidden = page.events.length === 0;
    if (!page.events.length) put(recent, h("li", {}, empty("No events yet", "None of the newest events asked this uid.")));
  }, (problem) => warning.say(problem, frame));

  /** Nobody has this uid, and asking again would not change it soon. */
  function missing(problem) {
    follow.stop();
    why.stop();
    put(parts, h("section.card", {}, empty(`There is no miner ${uid}`, `${problem.message.replace(/^./, (first) => first.toUpperCase())}.`)));
  }

  function draw(samples, role) {
    shown = samples;
    history.hidden = samples.length === 0;
    none.hidden = samples.length > 0;
    put(none, ASKED.has(role) ? empty("Not asked yet", "Its requests appear here as they happen.")
      : empty("Never asked", role === "silent" ? "It publishes no address on the chain." : "Validators are not asked, only miners."));
    if (!samples.length) return;
    const rewards = samples.map((one) => (one.status === "ok" ? one.reward : null));
    const failed = samples.map((one) => (one.status === "ok" ? null : 0));
    const known = samples.map((one) => (one.status === "ok" ? one.reward : 0));
    const means = known.map((_, i) => {
      const part = known.slice(Math.max(0, i - MEAN_OVER + 1), i + 1).filter((one) => one !== null);
      return part.length ? part.reduce((sum, one) => sum + one, 0) / part.length : null;
    });
    plot.update([samples.map((one) => one.time_ms / 1000), rewards, failed, means]);
  }

  return () => {
    follow.stop();
    why.stop();
    plot.stop();
  };
}
