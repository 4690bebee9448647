// The frame: which view is shown, the key, the theme, and what every view needs to know of the mesh.
import { get, hasKey, setKey } from "./api.js";
import { redrawAll } from "./charts.js";
import { empty, h, put, say } from "./dom.js";
import { count } from "./format.js";
import { poll } from "./poll.js";
import { shortKey } from "./text.js";
import { ask } from "./views/ask.js";
import { event } from "./views/event.js";
import { events } from "./views/events.js";
import { gating } from "./views/gating.js";
import { miner } from "./views/miner.js";
import { miners } from "./views/miners.js";
import { overview } from "./views/overview.js";
import { weights } from "./views/weights.js";

const ROUTES = [
  [/^\/$/, overview, "Overview", "#/"],
  [/^\/miners$/, miners, "Miners", "#/miners"],
  [/^\/miners\/(\d{1,5})$/, miner, "Miner", "#/miners"],
  [/^\/events$/, events, "Events", "#/events"],
  [/^\/events\/([0-9A-Z]{26})$/, event, "Event", "#/events"],
  [/^\/weights$/, weights, "Weights", "#/weights"],
  [/^\/gating$/, gating, "Gating", "#/gating"],
  [/^\/ask$/, ask, "Ask", "#/ask"],
];
const EVERY = 3000;
const $ = (id) => document.getElementById(id);
const main = $("main");
const listeners = new Set();

let mesh = null;
let leave = () => {};

/** What views get: the newest overview (null at first), a way to hear of newer ones, and to ask for the key. */
const frame = {
  get mesh() { return mesh; },
  /** Calls `listener(mesh, problem)` now and for every newer overview. Gives a function that ends it. */
  watch(listener) {
    listeners.add(listener);
    if (mesh) listener(mesh, null);
    return () => listeners.delete(listener);
  },
  openKey,
  refresh: () => following.soon(),
};

const following = poll(EVERY, async () => {
  mesh = await get("overview");
  say($("link-state"), "");
  $("where").replaceChildren(
    `subnet ${mesh.netuid} \u00b7 block ${count(mesh.block)}`,
    h("span.wide", {}, ` \u00b7 validator ${shortKey(mesh.hotkey)}`),
  );
  say($("foot-version"), `coremesh ${mesh.version}`);
  keyButton();
  tell(null);
}, (problem) => {
  say($("link-state"), problem.status === 0 ? "not connected" : "not well");
  tell(problem);
});

function tell(problem) {
  for (const listener of [...listeners]) listener(mesh, problem);
}

function show() {
  const path = location.hash.replace(/^#/, "") || "/";
  leave();
  leave = () => {};
  listeners.clear();
  window.scrollTo(0, 0);
  const found = ROUTES.map((route) => [route, route[0].exec(path)]).find(([, match]) => match);
  for (const link of document.querySelectorAll(".tabs a")) {
    if (found && link.getAttribute("href") === found[0][3]) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  if (!found) {
    put(main, empty("There is no such view", "Choose one above."));
    return;
  }
  const [[, view, title], match] = found;
  document.title = `${title}${match[1] && match[1].length < 6 ? ` ${match[1]}` : ""} \u00b7 coremesh`;
  leave = view(main, frame, ...match.slice(1)) ?? (() => {});
}

// Going to another view moves the focus there, as a page load would.
window.addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
});

// The key

function openKey(why = "") {
  say($("key-problem"), why);
  $("key-problem").hidden = !why;
  $("key-input").value = "";
  $("key-forget").hidden = !hasKey();
  $("key-dialog").showModal();
}

function keyButton() {
  const refused = mesh?.viewer.key === "refused";
  say($("key-button"), refused ? "Key refused" : hasKey() ? "Key in use" : "Key");
  const needed = mesh && !(mesh.viewer.asks && mesh.viewer.numbers && mesh.viewer.texts);
  $("key-button").hidden = !(hasKey() || needed);
}

$("key-button").addEventListener("click", () => openKey(mesh?.viewer.key === "refused" ? "This validator does not know the key." : ""));
$("key-form").addEventListener("submit", () => {
  if ($("key-input").value.trim()) useKey($("key-input").value);
});
$("key-forget").addEventListener("click", () => {
  useKey("");
  $("key-dialog").close();
});

function useKey(key) {
  setKey(key);
  keyButton();
  following.soon();
  show();
}

// The theme: the system's, unless one was chosen.

const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

function themeButton() {
  const chosen = root.dataset.theme;
  const is = chosen ?? (dark.matches ? "dark" : "light");
  const other = is === "dark" ? "light" : "dark";
  say($("theme-name"), other === "dark" ? "Dark" : "Light");
  $("theme-button").setAttribute("aria-label", `Switch to the ${other} theme`);
}

$("theme-button").addEventListener("click", () => {
  const is = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const other = is === "dark" ? "light" : "dark";
  if ((other === "dark") === dark.matches) delete root.dataset.theme;
  else root.dataset.theme = other;
  try {
    if (root.dataset.theme) localStorage.setItem("coremesh.theme", other);
    else localStorage.removeItem("coremesh.theme");
  } catch { /* storage is refused: the choice lasts until the page is left */ }
  themeButton();
  redrawAll();
});
dark.addEventListener("change", () => {
  themeButton();
  redrawAll();
});

themeButton();
show();
