// The explorer of a sweep: what is drawn, filtered, sorted and chosen. All of it is in the page's address.
import { readAddress, writeAddress } from "./address.js";
import { offerBox } from "./box.js";
import { ask, element, onPage, option, patchChildren } from "./dom.js";
import { fillKnobs } from "./knobs.js";
import { Panel } from "./panel.js";
import { drawPicture, hideMarks, metricOf, rowOf, withSpreads } from "./picture.js";
import { seenRows } from "./rows.js";
import { Table } from "./table.js";

const MOST_CHOSEN = 8, TYPING_MS = 40;
const SETTLED_MS = 120; // after the last filter; longer if the picture took longer
const NAMES = ["x", "y", "xs", "ys", "colour", "size", "where", "sort", "without", "status", "knob", "show"]; // in the address

export class Explorer {
  constructor(place, data, source, at) {
    Object.assign(this, { place, data, source, at, matching: null, paintMs: 0 });
    this.form = place.querySelector("#controls");
    this.plot = place.querySelector("#plot-front");
    this.table = new Table(place, () => this.tell(), { pick: (key, event) => this.pick(key, event), toggle: (key) => this.toggle(key) });
    this.panel = new Panel(document.getElementById("panel"), source, () => this.choose([]));
    this.read();
    this.fillControls(), this.listen();
    this.filterOnServer().then(() => this.showChosen());
  }

  // --- what was chosen, in the address ---

  defaults() {
    const [first, second] = this.data.objectives.map((objective) => objective.name);
    const has = (name) => metricOf(this.data, name);
    const names = this.data.metrics.map((metric) => metric.name);
    const x = has(second) ? second : names[1] ?? names[0], y = has(first) ? first : names[0];
    return { x, y, colour: "", size: "", where: "", sort: "" };
  }

  scaleOf(name) { return metricOf(this.data, name)?.isLog ? "log" : "linear"; }
  fits(name, value) {
    if (name === "where" || name === "sort") return true;
    return name === "x" || name === "y" ? this.data.metrics.some((metric) => metric.name === value) : Boolean(metricOf(this.data, value));
  }

  read() {
    const asked = readAddress();
    this.state = this.defaults();
    this.wished = new Map(); // asked for, but the sweep has no such figure yet
    this.applied = undefined; // the last condition that could be read
    for (const name of Object.keys(this.state)) {
      const value = asked.get(name);
      if (value && !this.fits(name, value)) this.wished.set(name, value);
      else if (value !== null) this.state[name] = value;
    }
    for (const axis of ["x", "y"]) {
      const scale = asked.get(`${axis}s`);
      this.state[`${axis}s`] = (!this.wished.has(axis) && scale) || this.scaleOf(this.state[axis]);
      if (this.wished.has(axis) && scale) this.wished.set(`${axis}s`, scale);
    }
    this.state.hidden = new Set(asked.getAll("without"));
    this.state.statuses = new Set(asked.has("status") ? asked.getAll("status") : ["finished"]);
    this.state.knobs = new Map(asked.getAll("knob").map((text) => {
      const [name, ...ends] = text.split("|"), high = ends.length > 1 ? ends.pop() : ""; // a word may have such lines in it
      return [name, [ends.join("|"), high]];
    }));
    this.state.chosen = this.known(asked.getAll("show")).slice(0, MOST_CHOSEN);
  }

  write() {
    const { state } = this, usual = this.defaults();
    for (const axis of ["x", "y"]) usual[`${axis}s`] = this.scaleOf(state[axis]);
    const now = { ...state, where: this.applied ?? state.where, ...Object.fromEntries(this.wished) };
    const asked = Object.keys(usual).map((name) => [name, now[name]]).filter(([name, value]) => value !== usual[name]);
    for (const name of state.hidden) asked.push(["without", name]);
    if ([...state.statuses].join() !== "finished") {
      for (const name of state.statuses.size ? state.statuses : [""]) asked.push(["status", name]);
    }
    for (const [name, ends] of state.knobs) asked.push(["knob", [name, ...ends].join("|")]);
    for (const key of state.chosen) asked.push(["show", key]);
    writeAddress(NAMES, asked);
  }

  // --- controls ---

  fillControls() {
    const { form, data, state } = this;
    for (const name of ["x", "y", "colour", "size"]) {
      const select = form.elements[name];
      const [kept, offered] = ["colour", "size"].includes(name) ? [[select.options[0]], withSpreads(data)] : [[], data.metrics];
      patchChildren(select, [...kept, ...offered.map((metric) => option(metric.title, metric.name))]);
    }
    for (const name of ["x", "y", "xs", "ys", "colour", "size", "where"]) {
      if (document.activeElement !== form.elements[name]) form.elements[name].value = state[name];
    }
    this.markScales();
    const counted = (list) => list.reduce((counts, name) => counts.set(name, (counts.get(name) ?? 0) + 1), new Map());
    this.fillChoices("statuses", counted(data.rows.map((row) => row.status)), (name) => state.statuses.has(name));
    const architectures = counted(data.rows.map((row) => row.architecture));
    this.fillChoices("architectures", new Map(Object.keys(data.marks).map((name) => [name, architectures.get(name) ?? 0])), (name) => !state.hidden.has(name));
    fillKnobs(this.place.querySelector("#knobs"), data, state);
  }

  markScales() { // only a share has errors
    for (const axis of ["x", "y"]) {
      const metric = metricOf(this.data, this.state[axis]);
      this.form.elements[`${axis}s`].querySelector("[value=errors]").disabled = !metric?.isShare;
      if (this.state[`${axis}s`] === "errors" && !metric?.isShare) this.state[`${axis}s`] = "linear";
      this.form.elements[`${axis}s`].value = this.state[`${axis}s`];
    }
  }

  fillChoices(id, counts, isOn) {
    const group = this.place.querySelector(`#${id}`);
    patchChildren(group, [group.firstElementChild, ...[...counts].map(([name, count]) => {
      const box = element("input", { type: "checkbox", name: id, value: name });
      const colour = this.data.marks[name]?.colour;
      const swatch = element("span", { class: "swatch" });
      if (colour) swatch.style.background = onPage(colour);
      return element("label", { "data-key": name }, box, ...(id === "architectures" ? [swatch] : []), `${name} (${count})`);
    })]);
    for (const box of group.querySelectorAll("input")) box.checked = isOn(box.value);
  }

  listen() {
    const { form, place } = this;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => this.changed(event.target));
    place.querySelector("[data-box=filter]").addEventListener("click", (event) => {
      this.state.where = form.elements.where.value = [this.state.where.trim(), event.target.dataset.where].filter(Boolean).join(" and ");
      this.filterOnServer();
    });
    place.querySelector("#reset").addEventListener("click", () => {
      writeAddress(NAMES, []);
      this.read();
      this.boxed(null);
      this.place.querySelector("#knobs").open = false;
      this.fillControls();
      this.filterOnServer().then(() => this.showChosen());
    });
  }

  listenToPlot() { // which the place becomes as something is drawn in it
    if (this.heard) return;
    this.heard = true;
    this.plot.on("plotly_click", (event) => {
      const row = event.points.map(rowOf).find((i) => this.visible.includes(i));
      if (row !== undefined) this.pick(this.data.rows[row].key, event.event);
    });
    this.plot.on("plotly_selected", (event) => { if (event?.range) this.boxed(event); });
    this.plot.on("plotly_legendclick", (event) => {
      const { meta } = event.data[event.curveNumber];
      if (meta) this.toggleArchitecture(meta.architecture);
      return false;
    });
  }

  boxed(event) {
    const inside = (event?.points ?? []).map(rowOf).filter((i) => i !== undefined);
    offerBox(this.place.querySelector("#box"), this.data, this.state, event?.range, inside, MOST_CHOSEN);
    if (inside.length) this.choose(inside.slice(0, MOST_CHOSEN).map((i) => this.data.rows[i].key));
  }

  changed(field) {
    const { state } = this;
    if (field.name === "where") {
      clearTimeout(this.typing);
      state.where = field.value;
      this.typing = setTimeout(() => this.filterOnServer(), TYPING_MS);
      return;
    }
    if (field.name === "statuses" || field.name === "architectures") {
      const on = [...this.form.querySelectorAll(`[name=${field.name}]`)].filter((box) => box.checked === (field.name === "statuses")).map((box) => box.value);
      state[field.name === "statuses" ? "statuses" : "hidden"] = new Set(on);
      this.filter();
    } else if (field.dataset.knob) {
      const ends = state.knobs.get(field.dataset.knob) ?? ["", ""];
      ends[Number(field.dataset.end ?? 0)] = field.value;
      if (ends.join("")) state.knobs.set(field.dataset.knob, ends); else state.knobs.delete(field.dataset.knob);
      this.filter();
    } else {
      state[field.name] = field.value;
      for (const name of [field.name, `${field.name}s`]) this.wished.delete(name);
      if (field.name === "x" || field.name === "y") state[`${field.name}s`] = this.scaleOf(field.value);
      this.markScales();
      this.draw();
    }
  }

  toggleArchitecture(name) {
    if (!this.state.hidden.delete(name)) this.state.hidden.add(name);
    this.fillControls();
    this.filter();
  }

  // The condition is read by the server, in the language of `recallfront pick --where`.
  async filterOnServer() {
    const { where } = this.state, field = this.form.elements.where, told = this.place.querySelector("#where-error");
    let error = "";
    if (!where.trim()) this.matching = null;
    else {
      const { ok, found } = await ask(`${this.source}/matching`, { where, at: this.at });
      if (where !== this.state.where) return; // typed on meanwhile
      if (ok) this.matching = new Set(found.keys);
      else error = found.error;
    }
    if (!error) this.applied = where;
    told.textContent = error;
    told.hidden = !error;
    field.setAttribute("aria-invalid", String(Boolean(error)));
    this.filter();
  }

  // --- rows ---

  index(key) { return this.data.rows.findIndex((row) => row.key === key || row.keys.includes(key)); }

  pick(key, event) {
    if (event?.shiftKey || event?.ctrlKey || event?.metaKey) return this.toggle(key);
    this.choose([key]);
    return this.panel.focus();
  }

  toggle(key) {
    const { chosen } = this.state;
    this.choose(chosen.includes(key) ? chosen.filter((one) => one !== key) : [...chosen, key].slice(-MOST_CHOSEN));
  }

  known(keys) { // each by the key that its row has now
    return [...new Set(keys.map((key) => this.data.rows[this.index(key)]?.key).filter(Boolean))];
  }

  choose(keys) {
    this.state.chosen = this.known(keys);
    this.filter();
    return this.showChosen();
  }

  showChosen() {
    const labels = this.state.chosen.map((key) => this.data.rows[this.index(key)].label);
    return this.panel.show(this.state.chosen, labels, this.at);
  }

  update(data, at) { // of a sweep that runs
    this.at = at;
    if (JSON.stringify(data) === JSON.stringify(this.data)) return;
    const before = new Map(this.data.rows.map((row) => [row.key, JSON.stringify(row)]));
    this.panel.forget(data.rows.filter((row) => row.runs || before.get(row.key) !== JSON.stringify(row)).flatMap((row) => [row.key, ...row.keys]));
    clearTimeout(this.due);
    this.follow(() => { this.data = data; });
    this.state.chosen = this.known(this.state.chosen);
    this.fillControls();
    this.filterOnServer().then(() => this.showChosen());
  }

  follow(change) { // what the reader has not chosen is as the data have it, which a new sweep has few of
    const { state } = this, usual = this.defaults();
    const axes = ["x", "y"].filter((axis) => state[axis] === usual[axis]);
    const scales = ["x", "y"].filter((axis) => state[`${axis}s`] === this.scaleOf(state[axis]));
    change();
    for (const axis of axes) state[axis] = this.defaults()[axis];
    for (const axis of scales) state[`${axis}s`] = this.scaleOf(state[axis]);
    for (const [name, value] of [...this.wished].filter(([name, value]) => name in usual && this.fits(name, value))) {
      state[name] = value;
      if (name === "x" || name === "y") state[`${name}s`] = this.wished.get(`${name}s`) ?? this.scaleOf(value);
      for (const known of [name, `${name}s`]) this.wished.delete(known);
    }
  }

  draw() { this.tell(); this.paint(); }

  // Shows at once what the filters leave; the picture, which takes long with thousands of marks, is painted once they settle.
  filter() {
    const before = this.seen;
    this.tell();
    if (this.painted !== this.data) this.paint();
    else if (this.seen !== before) { // unlike after half of a condition
      hideMarks(this.plot, this.visible);
      clearTimeout(this.due);
      this.due = setTimeout(() => this.paint(), Math.max(SETTLED_MS, this.paintMs));
    }
  }

  tell() { // all but the picture
    this.write();
    this.visible = seenRows(this.data, this.state, this.matching);
    this.seen = JSON.stringify([this.visible, this.state.chosen, [...this.state.hidden]]); // what the picture shows by
    const all = this.data.total, count = this.visible.length;
    this.place.querySelector("#found").textContent = `${count} of ${all} configuration${all === 1 ? "" : "s"}`;
    this.table.draw(this.data, this.state, this.visible);
  }

  paint() {
    clearTimeout(this.due);
    this.painted = this.data;
    if (["x", "y"].some((axis) => !metricOf(this.data, this.state[axis]))) return;
    const start = performance.now();
    drawPicture(this.plot, this.data, this.state, this.visible, this.state.chosen.map((key) => this.index(key)));
    this.paintMs = performance.now() - start;
    this.listenToPlot();
  }
}
