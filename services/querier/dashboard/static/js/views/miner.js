// One miner: its standing, its last requests, and why it has its score.
import { get } from "../api.js";
import { chart } from "../charts.js";
import { bar, card, empty, facts, h, loading, put, stats } from "../dom.js";
import { count, number, percent, seconds, words } from "../format.js";
import { poll } from "../poll.js";
import { eventLine, notice } from "../shared.js";
import { line } from "../text.js";
import { explanation } from "./explanation.js";

const ROLES = { miner: "miner", validator: "validator: never asked, scored 0", self: "this validator", silent: "publishes no axon" };
const MEAN_OVER = 20;

export function miner(main, frame, uid) {
  const warning = notice();
  const title = h("h1", {}, `Miner ${uid}`);
  const under = h("p.mono.small", {}, "\u00a0");
  const numbers = h("div", {}, stats([["Score", "\u2013"], ["Weight", "\u2013"], ["Success", "\u2013"], ["Latency", "\u2013"]]));
  const plot = chart({
    series: [
      { label: "reward", colour: "accent", points: true },
      { label: "failure", colour: "bad", points: true, size: 6 },
      { label: `mean of ${MEAN_OVER}`, colour: "second" },
    ],
    describe: ([x, rewards, failed]) => `Rewards of its last ${x.length} requests, ${failed.filter((one) => one !== null).length} of them failures.`,
  });
  const legend = h("ul.legend", {}, h("li", {}, h("i.good"), "reward"), h("li", {}, h("i.bad"), "failure"), h("li", {}, h("i.second"), `mean of ${MEAN_OVER}, a failure counts 0`));
  const none = h("div", {}, loading());
  const history = h("div", {}, legend, plot.element);
  const statuses = h("ul.breakdown");
  const details = h("div");
  const recent = h("ol.events", { "aria-label": "Its newest events" });
  const why = explanation(uid, frame);
  put(main,
    h("div.head", {}, h("div", {}, title, under), h("p.right", {}, h("a", { href: "#/miners" }, "All miners"))),
    warning.element,
    numbers,
    h("div.grid.section", {},
      card("Last requests", { span: "w8" }, history, none),
      card("How they ended", { span: "w4" }, statuses),
      card("Why this score", { span: "w8" }, why.element),
      card("On the chain", { span: "w4" }, details),
      card("Newest events that asked it", { flush: true, more: h("span.muted", {}, "its reward") }, recent)));
  history.hidden = true;

  const follow = poll(3000, async () => {
    const page = await get(`miners/${uid}`);
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
    draw(page.samples);
    const all = Object.values(page.statuses).reduce((sum, n) => sum + n, 0);
    put(statuses, Object.entries(page.statuses).map(([status, n]) => h("li", {}, h("span", {}, words(status)), bar(n / all, status === "ok" ? "" : ".failed"), h("span", {}, `${n} \u00b7 ${percent(n / all, 0)}`))));
    if (!all) put(statuses, h("li.muted", {}, "Not asked yet."));
    put(details, facts([
      ["Role", ROLES[row.role]],
      ["Coldkey", h("span.mono.small", {}, line(page.coldkey, 80))],
      ["Stake", `${count(Math.round(page.stake))} TAO`],
      ["Registered", `block ${count(page.registered_at)}`],
      ["Successes", page.successes === null ? null : `${count(page.successes)} scored`],
      ["Failures", page.failures === null ? null : `${count(page.failures)} scored`],
      ["Score since", page.reset_block ? `block ${count(page.reset_block)}` : null],
    ]));
    put(recent, page.events.map((one) => eventLine(one)));
    if (!page.events.length) put(recent, h("li", {}, empty("No events yet", "None of the newest events asked this uid.")));
  }, (problem) => warning.say(problem, frame));

  function draw(samples) {
    history.hidden = samples.length === 0;
    none.hidden = samples.length > 0;
    put(none, empty("Not asked yet", "Its requests appear here as they happen."));
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
