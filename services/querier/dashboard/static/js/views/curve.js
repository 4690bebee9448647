// The learning curve: its first choice against chance.
import { chart } from "../charts.js";
import { empty, h } from "../dom.js";
import { clock, number } from "../format.js";

export function curve({ short = false } = {}) {
  let known = [];
  const drawn = chart({
    short,
    point: told,
    series: [
      { label: "best of the asked", colour: "muted", dash: [4, 4], width: 1.5 },
      { label: "asked at random", colour: "second" },
      { label: "gating's first choice", colour: "accent", width: 2.5 },
    ],
    describe: ([, best, mean, first]) => first.length
      ? `Reward over time. Newest: gating's first choice ${number(first.at(-1))}, a random miner ${number(mean.at(-1))}, the best of the asked ${number(best.at(-1))}.`
      : "No rewards yet.",
  });
  const values = ["first", "mean", "best"].map(() => h("b"));
  const legend = h("ul.legend", {},
    h("li", {}, h("i.accent"), "gating's first choice", values[0]),
    h("li", {}, h("i.second"), "a random miner", values[1]),
    h("li", {}, h("i.line"), "best of the asked", values[2]));
  const moment = h("li.at");
  legend.append(moment);

  /** The values under the pointer, or the newest. */
  function told(at) {
    const one = known[at] ?? known.at(-1);
    if (!one) return;
    ["first", "mean", "best"].forEach((name, i) => { values[i].textContent = number(one[name]); });
    moment.textContent = `${known[at] ? "at" : "newest:"} ${clock(one.time_ms)}`;
  }

  const none = h("div", {}, empty("Nothing learnt yet", "The curve begins with the first rewarded training events."));
  const element = h("div", {}, legend, drawn.element, none);
  none.hidden = true;
  return {
    element,
    update({ points }) {
      const there = points.length > 1;
      none.hidden = there;
      legend.hidden = !there;
      drawn.element.hidden = !there;
      if (!there) return;
      const column = (name) => points.map((point) => point[name]);
      drawn.update([column("time_ms").map((ms) => ms / 1000), column("best"), column("mean"), column("first")]);
      known = points;
      told(null);
    },
    stop: drawn.stop,
  };
}
