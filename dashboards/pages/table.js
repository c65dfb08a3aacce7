// The table of configurations: its columns, its order, and a page of its rows.
import { element, number, patchChildren } from "./dom.js";
import { metricOf } from "./picture.js";

const ROWS = 100;

export class Table {
  constructor(place, changed, { pick, toggle }) {
    Object.assign(this, { place, changed, shown: ROWS });
    this.table = place.querySelector("#configurations");
    this.more = place.querySelector("#more");
    this.more.addEventListener("click", () => { this.shown += ROWS; changed(); });
    this.table.addEventListener("click", (event) => {
      const sorted = event.target.closest("[data-sort]"), row = event.target.closest("tr[data-key]");
      if (sorted) return this.sortBy(sorted.dataset.sort);
      if (!row || event.target.closest("a, label")) return undefined;
      if (event.target.matches("input")) return toggle(row.dataset.key);
      return pick(row.dataset.key, event);
    });
    this.table.addEventListener("keydown", (event) => { // as a click on the row, where Space ticks it
      const row = event.key === "Enter" && event.target.matches("input") && event.target.closest("tr[data-key]");
      if (row) pick(row.dataset.key, event);
    });
  }

  columns() {
    const { data, state } = this;
    const usual = data.columns.map((name, n) => ({ name, n, metric: metricOf(data, name) })).filter((column) => column.metric);
    const more = [...new Set([state.x, state.y, state.colour, state.size])].filter((name) => name && !data.columns.includes(name));
    return [...usual, ...more.map((name) => ({ name, metric: metricOf(data, name) }))];
  }

  sorted(rows) {
    const [name, direction] = this.state.sort.split(":");
    const metric = metricOf(this.data, name);
    const values = { label: (i) => this.data.rows[i].label, share: (i) => this.data.rows[i].share, seeds: (i) => this.data.rows[i].seeds, status: (i) => this.data.rows[i].status };
    const value = metric ? (i) => metric.values[i] : values[name];
    if (!value) return rows;
    const sign = direction === "down" ? -1 : 1;
    const compare = (one, other) => (one === other ? 0 : one === null ? 1 : other === null ? -1 : sign * (one < other ? -1 : 1));
    return [...rows].sort((one, other) => compare(value(one), value(other)));
  }

  sortBy(name) {
    const [before, direction] = this.state.sort.split(":");
    this.state.sort = before !== name ? `${name}:down` : direction === "down" ? `${name}:up` : "";
    this.changed();
  }

  draw(data, state, visible) {
    Object.assign(this, { data, state });
    const { table } = this, columns = this.columns();
    const [by, direction] = this.state.sort.split(":");
    const heading = (name, title, numeric = true) => element("th", {
      "data-key": name, class: numeric ? "num" : null, "aria-sort": by === name ? (direction === "down" ? "descending" : "ascending") : null, scope: "col",
    }, element("button", { type: "button", "data-sort": name }, title));
    patchChildren(table.tHead, [element("tr", {},
      element("th", { scope: "col" }, element("span", { class: "hidden" }, "chosen")), element("th", { scope: "col" }, element("span", { class: "hidden" }, "place")),
      heading("label", "configuration", false), ...columns.map((column) => heading(column.name, column.metric.title)),
      heading("share", "share"), heading("seeds", "seeds"), heading("status", "status", false))]);
    const rows = this.sorted(visible), chosen = new Set(this.state.chosen);
    patchChildren(table.tBodies[0], rows.slice(0, this.shown).map((i) => this.line(i, columns, chosen)));
    for (const box of table.tBodies[0].querySelectorAll("input")) box.checked = chosen.has(box.closest("tr").dataset.key);
    const { more } = this, left = rows.length - this.shown;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(left, ROWS)} more of ${left}`;
  }

  line(i, columns, chosen) {
    const row = this.data.rows[i], box = element("input", { type: "checkbox", "aria-label": row.label });
    const name = element("td", { class: "what-ran" }, row.label);
    if (row.knee) name.append(" ", element("span", { class: "tag" }, "knee"));
    if (row.doubts) name.append(element("div", { class: "faint" }, row.doubts));
    const figures = columns.map(({ n, metric }) => element("td", { class: "num" }, n === undefined ? number(metric.values[i]) : row.shown[n]));
    return element("tr", { "data-key": row.key, class: `${row.front ? "" : "off"} ${chosen.has(row.key) ? "ticked" : ""}` },
      element("td", {}, box), element("td", { class: "mark" }, row.mark), name, ...figures,
      element("td", { class: "num" }, row.front ? `${(100 * row.share).toFixed(1)} %` : ""),
      element("td", { class: "num" }, String(row.seeds)), element("td", {}, row.status));
  }
}
