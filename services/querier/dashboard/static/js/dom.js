// Building elements. Every text becomes a text node: no string is ever read as markup.
const SVG = "http://www.w3.org/2000/svg";

/** An element: h("a.card", {href: "#/"}, "text", child). Class names after dots; `on` holds listeners. */
export function h(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  return fill(document.createElement(tag), classes, props, children);
}

/** The same in SVG. */
export function svg(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  return fill(document.createElementNS(SVG, tag), classes, props, children);
}

function fill(element, classes, props, children) {
  if (classes.length) element.classList.add(...classes);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  put(element, ...children);
  return element;
}

/** Replace the content of an element. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set a text only when it is another, so that a selection survives. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Where an answer is still to come. */
export function loading() {
  return h("div.empty", {}, "Loading\u2026");
}

/** A note for people where there is nothing yet. */
export function empty(title, text) {
  return h("div.empty", {}, h("strong", {}, title), text);
}

export function card(title, { more = null, hint = null, flush = false, span = "" } = {}, ...content) {
  const head = h("header", {}, h("h2", {}, title), more && h("span.more", {}, more));
  const made = h(`section.card${flush ? ".flush" : ""}${span ? `.${span}` : ""}`, {}, head, hint && h("p.hint", {}, hint), ...content);
  return made;
}

/** `title` tells what the word means. */
export function chip(text, kind = "", title = null) {
  return h(`span.chip${kind ? `.${kind}` : ""}`, { title }, h("i.dot", { "aria-hidden": "true" }), text);
}

export function bar(share, extra = "") {
  const width = Math.max(0, Math.min(1, share || 0));
  return h(`span.bar${extra}`, { "aria-hidden": "true" }, h("i", { style: { width: `${(width * 100).toFixed(1)}%` } }));
}

/** Titles and values: facts([["Block", 7], …]). */
export function facts(pairs) {
  return h("dl.facts", {}, pairs.filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

export function stats(pairs) {
  return h("dl.stats", {}, pairs.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && " ", note && h("small", {}, note)))));
}
