// A table that is sorted by its heads and patched cell by cell, so that focus, selection and scroll survive an update.
import { h, put } from "./dom.js";

/**
 * columns: [{name, title, value(row), cell(row), sign(row), sort: bool, num: bool, wide: bool, first: "descending"}]
 * `sign` tells whether a cell has to be drawn again; the value does unless it is given.
 */
export function table({ columns, id, caption, by, direction = "descending", onSort = () => {} }) {
  const heads = new Map();
  const rows = new Map();
  let data = [];
  let order = { by, direction };

  const head = h("tr", {}, columns.map((column) => {
    const inner = column.sort === false ? column.title : h("button", { type: "button", on: { click: () => sortBy(column) } }, column.title);
    const cell = h(`th${classes(column)}`, { scope: "col" }, inner);
    heads.set(column.name, cell);
    return cell;
  }));
  const body = h("tbody");
  const element = h("table", {}, h("caption.sr", {}, caption), h("thead", {}, head), body);
  mark();

  function classes(column) {
    return `${column.num ? ".num" : ""}${column.wide ? ".wide-only" : ""}`;
  }

  function sortBy(column) {
    const same = order.by === column.name;
    const first = column.first ?? (column.num ? "descending" : "ascending");
    const other = order.direction === "descending" ? "ascending" : "descending";
    order = { by: column.name, direction: same ? other : first };
    mark();
    update(data);
    onSort(order);
  }

  function mark() {
    for (const [name, cell] of heads) {
      if (name === order.by) cell.setAttribute("aria-sort", order.direction);
      else cell.removeAttribute("aria-sort");
    }
  }

  function compare(column, a, b) {
    const [x, y] = [column.value(a), column.value(b)];
    const none = (v) => v === null || v === undefined;
    // What is not known comes last, whichever way.
    if (none(x) || none(y)) return none(x) - none(y) || id(a) > id(b) || -(id(a) < id(b));
    const found = x < y ? -1 : x > y ? 1 : 0;
    return (order.direction === "descending" ? -found : found) || id(a) > id(b) || -(id(a) < id(b));
  }

  function update(given) {
    data = given;
    const column = columns.find((one) => one.name === order.by) ?? columns[0];
    const sorted = [...given].sort((a, b) => compare(column, a, b));
    const wanted = new Set(sorted.map(id));
    for (const [key, row] of rows) {
      if (!wanted.has(key)) {
        row.element.remove();
        rows.delete(key);
      }
    }
    sorted.forEach((one, at) => {
      const row = rows.get(id(one)) ?? make(one);
      patch(row, one);
      if (body.children[at] !== row.element) body.insertBefore(row.element, body.children[at] ?? null);
    });
  }

  function make(one) {
    const cells = columns.map((column) => h(`td${classes(column)}`));
    const row = { element: h("tr", {}, cells), cells, signs: [] };
    rows.set(id(one), row);
    return row;
  }

  function patch(row, one) {
    columns.forEach((column, i) => {
      const sign = JSON.stringify((column.sign ?? column.value)(one)) ?? "";
      if (row.signs[i] === sign) return;
      row.signs[i] = sign;
      put(row.cells[i], column.cell(one));
    });
  }

  return { element, update };
}
