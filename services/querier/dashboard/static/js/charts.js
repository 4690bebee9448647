// uPlot in our colours, and sparklines.
import { h, svg } from "./dom.js";

const alive = new Set();
const probe = h("span", { hidden: true });

/** The colour behind a custom property, as the theme has it now. */
function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.setProperty("color", `var(--${name})`);
  return getComputedStyle(probe).color;
}

/**
 * A chart that follows the theme and its box. `series`: [{label, colour, points, dash, fill}], `draw(u)` gives the
 * data [[x…], [y…], …]; x are seconds. `describe` says in words what is seen. `point(i)` hears which point the pointer
 * is over, null for none.
 */
export function chart({ series, short = false, describe, range = null, point = () => {} }) {
  const element = h(`div.chart${short ? ".short" : ""}`, { role: "img", "aria-label": "" });
  let plot = null;
  let data = null;

  function options() {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return {
      width: element.clientWidth || 300,
      height: element.clientHeight || 200,
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      hooks: { setCursor: [(u) => point(u.cursor.idx ?? null)] },
      padding: [8, 32, 0, 0],
      scales: { y: { range: range ?? ((u, low, high) => spread(low, high)) } },
      axes: [
        { ...axis, grid: { show: false }, size: 28, space: 74, values: (u, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(ticks.at(-1) - ticks[0] < 300 ? { second: "2-digit" } : {}) })) },
        { ...axis, size: 46, values: (u, ticks) => ticks.map((tick) => String(+tick.toFixed(4))) },
      ],
      series: [{}, ...series.map((one) => {
        const ink = colour(one.colour);
        if (one.points) return { stroke: ink, paths: () => null, points: { show: true, size: one.size ?? 5, fill: ink, stroke: ink } };
        return { stroke: ink, width: one.width ?? 2, dash: one.dash, spanGaps: true, points: { show: false } };
      })],
    };
  }

  function draw() {
    plot?.destroy();
    plot = null;
    if (data && element.isConnected && data[0].length) plot = new uPlot(options(), data, element);
  }

  const box = new ResizeObserver(() => {
    if (!plot) draw();
    else if (plot.width !== element.clientWidth) plot.setSize({ width: element.clientWidth, height: element.clientHeight });
  });
  box.observe(element);
  const made = {
    element,
    redraw: draw,
    update(given) {
      data = given;
      element.setAttribute("aria-label", describe(given));
      if (plot) plot.setData(given);
      else draw();
    },
    stop() {
      box.disconnect();
      plot?.destroy();
      alive.delete(made);
    },
  };
  alive.add(made);
  return made;
}

function spread(low, high) {
  if (low === null || high === null || (low === 0 && high === 0)) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return [low >= 0 && low < high * 0.5 ? 0 : low - room, high + room];
}

/** Draw all charts again: the theme has changed. */
export function redrawAll() {
  for (const one of alive) one.redraw();
}

const WIDTH = 112;
const HEIGHT = 26;

/** The last values as a line, oldest first; a null is a failure: it breaks the line and gets a tick at the bottom. */
export function sparkline(values, label) {
  const known = values.filter((value) => value !== null);
  const low = Math.min(0, ...known);
  const high = Math.max(low + 1e-9, ...known);
  const step = values.length > 1 ? WIDTH / (values.length - 1) : 0;
  const y = (value) => HEIGHT - 3 - ((value - low) / (high - low)) * (HEIGHT - 6);
  const failures = [];
  const lone = [];
  let path = "";
  values.forEach((value, i) => {
    const x = (i * step).toFixed(1);
    if (value === null) {
      failures.push(svg("line.fail", { x1: x, x2: x, y1: HEIGHT - 4, y2: HEIGHT }));
      return;
    }
    const begins = i === 0 || values[i - 1] === null;
    const ends = i === values.length - 1 || values[i + 1] === null;
    if (begins && ends) lone.push(svg("circle", { cx: Math.min(WIDTH - 2, Math.max(2, x)), cy: y(value).toFixed(1), r: 2 }));
    else path += `${begins ? "M" : "L"}${x} ${y(value).toFixed(1)}`;
  });
  return svg("svg.spark", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("line.base", { x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
    path && svg("path", { d: path }), lone, failures);
}
