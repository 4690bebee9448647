// Asking the network, and seeing every completion with its reward.
import { post } from "../api.js";
import { bar, card, chip, h, put } from "../dom.js";
import { count, number, seconds, words } from "../format.js";
import { minerLink, notice, statusChip } from "../shared.js";
import { text } from "./event.js";

const STAGES = ["filter", "gating", "query", "reward"];
const MOST_SHOWN = 64;

let draft = { text: "", k: "", timeout: "", secret: false };

export function ask(main, frame) {
  const warning = notice();
  const box = h("textarea", { id: "question", rows: "4", maxlength: "32000", placeholder: "How do vaccines train the immune system?", required: true, "aria-describedby": "ask-hint" });
  const k = h("select", { id: "ask-k" }, [["", "default"], ["auto", "auto"], ...["1", "3", "5", "10", "20", "50"].map((n) => [n, n])].map(([value, name]) => h("option", { value }, name)));
  const timeout = h("input", { id: "ask-timeout", type: "number", min: "1", max: "60", step: "1", placeholder: "default", inputmode: "numeric" });
  const secret = h("input", { type: "checkbox" });
  const send = h("button.primary", { type: "submit" }, "Ask");
  const cancel = h("button", { type: "button", hidden: true, on: { click: () => running?.abort() } }, "Cancel");
  const state = h("p.muted.small", { role: "status" });
  const result = h("div.section");
  let running = null;

  box.value = draft.text;
  k.value = draft.k;
  timeout.value = draft.timeout;
  secret.checked = draft.secret;

  const form = h("form.card.ask-form", { on: { submit: go } },
    h("label", { for: "question" }, "Your question"),
    box,
    h("div.options", {},
      h("label", { for: "ask-k" }, "Miners", k),
      h("label", { for: "ask-timeout" }, "Seconds", timeout),
      h("label.check", {}, secret, "leave no text in the history"),
      h("div.send", {}, state, cancel, send)),
    h("p.hint", { id: "ask-hint" }, "Ctrl+Enter asks. Miners of the subnet see the question."));
  put(main, h("div.head", {}, h("h1", {}, "Ask the network"), h("p", {}, "Gating chooses miners, the reward model judges what they say.")), warning.element, form, result);
  box.addEventListener("keydown", (key) => {
    if (key.key === "Enter" && (key.ctrlKey || key.metaKey)) form.requestSubmit();
  });

  const unwatch = frame.watch((mesh) => {
    if (!mesh || running) return;
    if (mesh.viewer.asks) { if (state.textContent === NEEDS) state.replaceChildren(); }
    else put(state, h("button.quiet", { type: "button", on: { click: () => frame.openKey() } }, NEEDS));
  });

  async function go(submitted) {
    submitted.preventDefault();
    if (running || !box.value.trim()) return;
    running = new AbortController();
    const started = performance.now();
    const ticking = setInterval(() => { state.textContent = `asking\u2026 ${((performance.now() - started) / 1000).toFixed(1)} s`; }, 100);
    state.textContent = "asking\u2026";
    warning.clear();
    send.disabled = true;
    cancel.hidden = false;
    try {
      const body = { messages: [{ role: "user", content: box.value }], return_all: true };
      if (k.value) body.top_k = k.value === "auto" ? "auto" : Number(k.value);
      if (timeout.value) body.timeout = Number(timeout.value);
      if (secret.checked) body.private = true;
      const answer = await post("inference", body, { timeout: 130000, signal: running.signal });
      state.textContent = "";
      put(result, shown(answer));
    } catch (problem) {
      state.textContent = "";
      if (problem.code !== "cancelled") warning.say(problem, frame);
    } finally {
      clearInterval(ticking);
      running = null;
      send.disabled = false;
      cancel.hidden = true;
    }
  }

  return () => {
    draft = { text: box.value, k: k.value, timeout: timeout.value, secret: secret.checked };
    running?.abort();
    unwatch();
  };
}

const NEEDS = "This validator needs a key: enter one";

function shown(answer) {
  const all = answer.completions ?? [];
  const ok = all.filter((one) => one.status === "ok").length;
  const high = Math.max(1e-9, ...all.map((one) => one.reward ?? 0));
  return h("div.grid", {},
    h("section.card.answer", { "aria-label": "Best answer" },
      h("header", {}, h("h2", {}, "Best answer"), h("span.muted.small", {}, "from ", minerLink(answer.uid, answer.hotkey, { named: true }), answer.reward !== null && ` \u00b7 reward ${number(answer.reward)}`),
        answer.degraded.length > 0 && chip(`without ${answer.degraded.map(words).join(", ")}`, "warn")),
      text(answer.completion)),
    card("Where the time went", { more: h("span.muted", {}, `${seconds(answer.timings.total)} in all`) }, timings(answer.timings)),
    card("All completions", { flush: true, more: h("span.muted", {}, `${ok} of ${count(all.length)} answered`) },
      h("ol.completions", {}, all.slice(0, MOST_SHOWN).map((one) => completion(one, high)))));
}

function timings(spent) {
  const known = STAGES.filter((stage) => spent[stage] > 0);
  const total = Math.max(spent.total, known.reduce((sum, stage) => sum + spent[stage], 0), 1e-9);
  return h("div", {},
    h("ul.legend", {}, known.map((stage) => h("li", {}, h(`i.t-${stage}`), stage, h("b", {}, seconds(spent[stage]))))),
    h("div.timings", { "aria-hidden": "true" }, known.map((stage) => h(`i.t-${stage}`, { style: { width: `${((spent[stage] / total) * 100).toFixed(2)}%` } }))));
}

function completion(one, high) {
  return h("li", {},
    h("div.meta", {}, minerLink(one.uid, one.hotkey, { named: true }), statusChip(one.status), h("span.muted", {}, seconds(one.latency_s)),
      h("span.reward", {}, one.reward !== null && h("span.muted", {}, "reward "), number(one.reward), one.reward !== null && bar(one.reward / high))),
    one.completion ? text(one.completion) : null);
}
