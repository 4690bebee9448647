// What was set on the chain, and what was not and why.
import { get } from "../api.js";
import { card, chip, empty, h, loading, put } from "../dom.js";
import { ago, count, resultKind, when, words } from "../format.js";
import { poll } from "../poll.js";
import { minerLink, notice } from "../shared.js";
import { table } from "../table.js";
import { RESULTS } from "../terms.js";
import { line } from "../text.js";

const COLUMNS = [
  { name: "time", title: "When", first: "descending", value: (row) => row.time_ms, cell: (row) => h("time", { datetime: new Date(row.time_ms).toISOString(), title: when(row.time_ms) }, ago(row.time_ms)), sign: (row) => ago(row.time_ms) },
  { name: "block", title: "Sent at block", num: true, wide: true, value: (row) => row.block, cell: (row) => count(row.block) },
  { name: "result", title: "Result", value: (row) => row.result, cell: (row) => chip(words(row.result), resultKind(row.result), RESULTS[row.result]) },
  { name: "landed", title: "Landed in", num: true, wide: true, value: (row) => row.landed_block || null, cell: (row) => (row.landed_block ? count(row.landed_block) : "\u2013") },
  { name: "miners", title: "Miners", num: true, wide: true, value: (row) => row.miners, cell: (row) => count(row.miners) },
  { name: "top", title: "Highest (uids)", sort: false, wide: true, value: (row) => row.top, cell: (row) => row.top.flatMap((uid, i) => [i ? ", " : "", minerLink(uid)]) },
  { name: "reason", title: "Reason", sort: false, value: (row) => row.reason, cell: (row) => h("span.reason", {}, row.reason ? line(row.reason, 400) : "\u2013") },
];

export function weights(main, frame) {
  const warning = notice();
  const made = table({ columns: COLUMNS, id: (row) => row.id, caption: "Attempts to set weights, the newest first", by: "time" });
  const state = h("div");
  const none = h("div", {}, loading());
  const terms = h("dl.terms");
  const scroll = h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Submissions" }, made.element);
  put(main,
    h("div.head", {}, h("h1", {}, "Weights"), h("p", {}, "Every attempt to set weights, read back from the chain.")),
    warning.element, state,
    terms,
    card("Submissions", { flush: true }, scroll, none));
  scroll.hidden = true;
  const follow = poll(4000, async () => {
    const found = await get("submissions");
    warning.stale(found.stale, found.stale_s);
    put(state, next(found));
    made.update(found.submissions);
    const met = Object.keys(RESULTS).filter((result) => found.submissions.some((one) => one.result === result));
    put(terms, met.map((result) => h("div", {}, h("dt", {}, words(result)), h("dd", {}, RESULTS[result]))));
    put(none, empty("No weights submitted yet", "They are submitted once an epoch of the subnet, when enough has been scored."));
    scroll.hidden = found.submissions.length === 0;
    none.hidden = found.submissions.length > 0;
  }, (problem) => warning.say(problem, frame));
  return () => follow.stop();
}

function next({ held, submissions }) {
  const landed = submissions.find((one) => one.result === "landed" || one.result === "revealed");
  return h("p.row.next", {},
    held ? chip("not ready to be set", "warn") : chip("ready to be set", "good"),
    held ? h("span", {}, `If weights were due now, they would be held: ${line(held, 400).replace(/\.$/, "")}.`) : null,
    landed && h("span.muted", {}, `Last on the chain: block ${count(landed.landed_block || landed.block)}, ${ago(landed.time_ms)}.`));
}
