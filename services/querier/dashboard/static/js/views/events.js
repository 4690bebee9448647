// Every event as it happens.
import { get } from "../api.js";
import { empty, h, loading, put } from "../dom.js";
import { number } from "../format.js";
import { poll } from "../poll.js";
import { eventHeads, eventList, notice } from "../shared.js";
import { KINDS } from "../terms.js";

const MOST = 150;

export function events(main, frame) {
  const warning = notice();
  const list = eventList(MOST);
  const none = h("div", {}, loading());
  const heads = eventHeads("Best reward");
  const rate = h("p", { role: "status" }, "\u00a0");
  let last = "0-0";
  let paused = false;
  const button = h("button", { type: "button", "aria-pressed": "false", on: { click: toggle } }, "Pause");
  put(main,
    h("div.head", {}, h("h1", {}, "Events"), rate, h("div.right", {}, button)),
    warning.element,
    h("dl.terms", {}, Object.entries(KINDS).map(([kind, meaning]) => h("div", {}, h("dt", {}, kind), h("dd", {}, meaning)))),
    h("section.card.flush", {}, heads, list.element, none));
  list.element.hidden = true;
  heads.hidden = true;

  const follow = poll(1500, async () => {
    if (paused) return;
    const found = await get(`events?count=${MOST}&after=${last}`);
    last = found.last_id;
    list.take(found.events);
    warning.stale(found.stale, 0);
    put(none, empty("No events yet", "The trainer asks its first question in a few seconds."));
    none.hidden = list.element.children.length > 0;
    list.element.hidden = !none.hidden;
    heads.hidden = !none.hidden;
  }, (problem) => warning.say(problem, frame));
  const unwatch = frame.watch((mesh) => {
    const text = mesh?.per_minute ? `${number(mesh.per_minute, mesh.per_minute < 10 ? 1 : 0)} a minute` : "\u00a0";
    if (rate.textContent !== text) rate.textContent = text;
  });

  function toggle() {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
    if (!paused) follow.soon();
  }

  return () => {
    follow.stop();
    unwatch();
  };
}
