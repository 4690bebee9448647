// The leaderboard.
import { get } from "../api.js";
import { sparkline } from "../charts.js";
import { bar, empty, h, loading, put } from "../dom.js";
import { count, number, percent, seconds } from "../format.js";
import { poll } from "../poll.js";
import { notice } from "../shared.js";
import { table } from "../table.js";
import { line, shortKey } from "../text.js";

const ROLES = { validator: "validator", self: "this validator", silent: "no axon" };
const COLUMNS = [
  { name: "uid", title: "Uid", num: true, value: (row) => row.uid, cell: (row) => h("a", { href: `#/miners/${row.uid}` }, String(row.uid)) },
  { name: "hotkey", title: "Hotkey", wide: true, value: (row) => row.hotkey, sign: (row) => [row.hotkey, row.role], cell: hotkey },
  { name: "score", title: "Score", num: true, value: (row) => row.score, cell: (row) => number(row.score, 4) },
  { name: "weight", title: "Weight", num: true, value: (row) => row.weight, cell: (row) => percent(row.weight, 2) },
  { name: "on_chain", title: "On chain", num: true, wide: true, value: (row) => row.on_chain, cell: (row) => percent(row.on_chain, 2) },
  { name: "success", title: "Success", num: true, value: (row) => row.success, sign: (row) => [row.success, row.asked], cell: success },
  { name: "latency", title: "Latency", num: true, first: "ascending", value: (row) => row.latency_s, cell: (row) => seconds(row.latency_s) },
  { name: "reward", title: "Reward", num: true, value: (row) => row.reward, cell: (row) => number(row.reward) },
  { name: "rewards", title: "Last rewards", sort: false, wide: true, value: (row) => row.rewards, sign: (row) => [row.last_ms, row.rewards.length], cell: (row) => sparkline(row.rewards, spoken(row)) },
];

function hotkey(row) {
  return [h("span.key", { title: line(row.hotkey, 80) }, shortKey(row.hotkey)), ROLES[row.role] ? [" ", h("span.chip", {}, ROLES[row.role])] : []].flat();
}

function success(row) {
  if (row.success === null) return ["\u2013", bar(0)];
  return [h("span", { title: `of its last ${row.asked} requests` }, percent(row.success, 0)), bar(row.success)];
}

function spoken(row) {
  const failed = row.rewards.filter((one) => one === null).length;
  return `last ${row.rewards.length} requests, ${failed} failed, mean reward ${number(row.reward)}`;
}

let kept = { text: "", only: true };

export function miners(main, frame) {
  const warning = notice();
  let rows = [];
  const made = table({ columns: COLUMNS, id: (row) => row.uid, caption: "Miners and their standing", by: "score" });
  const search = h("input", { type: "search", placeholder: "Search uid or hotkey", "aria-label": "Search by uid or hotkey", on: { input: filter } });
  const only = h("input", { type: "checkbox", on: { change: filter } });
  const shown = h("span.count", { role: "status" });
  const none = h("div", {}, loading());
  const scroll = h("div.scroll.pinned", { tabindex: "0", role: "region", "aria-label": "Leaderboard" }, made.element);
  search.value = kept.text;
  only.checked = kept.only;
  put(main,
    h("div.head", {}, h("h1", {}, "Miners"), h("p", {}, "Weight is what would be set now. Success, median latency and mean reward are over each miner's last requests, at most 240.")),
    warning.element,
    h("div.filters", { role: "search" }, search, h("label.check", {}, only, "miners only"), shown),
    h("section.card.flush", {}, scroll, none));
  scroll.hidden = true;

  function filter() {
    kept = { text: search.value, only: only.checked };
    const wanted = search.value.trim().toLowerCase();
    const found = rows.filter((row) => (!only.checked || row.role === "miner" || row.asked > 0)
      && (!wanted || String(row.uid) === wanted || row.hotkey.toLowerCase().includes(wanted)));
    made.update(found);
    const text = rows.length ? `${count(found.length)} of ${count(rows.length)} uids` : "";
    if (shown.textContent !== text) shown.textContent = text;
    scroll.hidden = found.length === 0;
    none.hidden = found.length > 0;
    if (!found.length) put(none, rows.length ? empty("No miner matches", "Search for a uid or a part of a hotkey.") : empty("Waiting for the metagraph", "The weights service publishes it after its first sync with the chain."));
  }

  const follow = poll(3000, async () => {
    const board = await get("leaderboard");
    rows = board.rows;
    warning.stale(board.stale, board.stale_s);
    filter();
  }, (problem) => warning.say(problem, frame));
  return () => follow.stop();
}
