// What gating has learnt.
import { get } from "../api.js";
import { card, h, put, stats } from "../dom.js";
import { count, number, words } from "../format.js";
import { poll } from "../poll.js";
import { notice } from "../shared.js";
import { curve } from "./curve.js";

export function gating(main, frame) {
  const warning = notice();
  const numbers = h("div", {}, stats([["Its first choice earns", "\u2013"], ["Rule", "\u2013"], ["Steps learnt", "\u2013"], ["Hotkeys known", "\u2013"], ["Events in the curve", "\u2013"]]));
  const learning = curve();
  put(main,
    h("div.head", {}, h("h1", {}, "Gating"), h("p", {}, "It learns from the events which miners to ask for a prompt.")),
    warning.element, numbers,
    h("div.grid.section", {}, card("Reward of its first choice against chance", {
      hint: "Of each event: the reward of the miner that gating ranked first among the asked, against that of a miner drawn at random (estimated from the odds that each had of being asked). A failure counts 0.",
    }, learning.element)));
  const follow = poll(3000, async () => {
    const found = await get("learning");
    warning.stale(found.stale, 0);
    put(numbers, stats([
      ["Its first choice earns", found.lift === null ? "\u2013" : `\u00d7${number(found.lift, 2)}`, found.events ? "a random miner's reward" : null],
      ["Rule", found.rule ? words(found.rule) : "\u2013", found.version === null ? null : `version ${count(found.version)} of its head`],
      ["Steps learnt", count(found.steps), found.steps === null ? null : "one an event"],
      ["Hotkeys known", count(found.hotkeys), found.features === null ? null : `${count(found.features)} prompt features`],
      ["Events in the curve", count(found.events), found.events ? "the newest" : null],
    ]));
    learning.update(found);
  }, (problem) => warning.say(problem, frame));
  return () => {
    follow.stop();
    learning.stop();
  };
}
