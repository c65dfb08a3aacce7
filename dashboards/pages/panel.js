// The panel beside the page: the chosen configurations one below the other, and their learning curves over each other.
import { GRID, ask, element, patchChildren, plain, plotLayout } from "./dom.js";

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#44AA99"];
const LINE = 20; // pixels of one of the legend
const DASHES = ["solid", "dot", "dash", "dashdot", "longdash"];

export class Panel {
  constructor(place, source, close) {
    Object.assign(this, { place, source, known: new Map(), asked: 0 });
    place.addEventListener("click", (event) => { if (event.target.closest("[data-close]")) close(); });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !place.hidden) close(); });
  }

  forget(keys) { keys.forEach((key) => this.known.delete(key)); }

  focus() { // where a person goes who has chosen one, and comes back from
    if (!this.place.contains(document.activeElement)) this.before = document.activeElement;
    this.place.focus({ preventScroll: true });
  }

  leave() {
    const before = this.before?.isConnected ? this.before : document.querySelector("#configurations").parentElement;
    before.focus({ preventScroll: true });
  }

  // keys: the configurations in the order in which they were chosen; labels of the same.
  async show(keys, labels, at) {
    const asked = ++this.asked;
    if (!keys.length && this.place.contains(document.activeElement)) this.leave();
    this.place.hidden = !keys.length;
    const before = document.body.classList.contains("beside-panel");
    if (before !== document.body.classList.toggle("beside-panel", keys.length > 0)) {
      dispatchEvent(new Event("resize")); // the page has another width now, which the plots hear of in no other way
    }
    if (!keys.length) return this.place.replaceChildren();
    if (!this.place.firstChild) this.place.append(element("p", { class: "faint" }, "Reading the curves…"));
    const found = await Promise.all(keys.map((key) => this.read(key, at)));
    if (asked !== this.asked) return undefined; // something else was chosen meanwhile
    const top = element("div", { class: "row" },
      element("h2", {}, keys.length === 1 ? "Configuration" : `${keys.length} configurations`),
      element("button", { type: "button", "data-close": true, "aria-label": "Close the panel (Escape)" }, "Close"));
    const curves = element("div", { class: "curves", "data-key": "curves", "data-kept": true });
    patchChildren(this.place, [top, curves, ...found.map((one, n) => {
      const part = element("div", { "data-key": keys[n] });
      if (one.error) part.append(element("p", { class: "failure" }, one.error));
      else part.innerHTML = one.html; // of the server's template, which escapes every value
      return part;
    })]);
    this.drawCurves(this.place.querySelector(".curves"), found, labels);
    return undefined;
  }

  async read(key, at) { // what failed is asked for again
    if (this.known.has(key)) return this.known.get(key);
    const { ok, found } = await ask(`${this.source}/configurations/${encodeURIComponent(key)}`, { at });
    if (ok) this.known.set(key, found);
    return ok ? found : { error: found.error, curves: [] };
  }

  drawCurves(place, found, labels) {
    const metrics = found.find((one) => one.curves.length)?.curves ?? [];
    const drawn = metrics.map((metric, m) => ({ metric, traces: this.traces(found, labels, m) })).filter(({ traces }) => traces.length);
    const before = new Map([...place.querySelectorAll(".curve")].map((plot) => [plot.dataset.key, plot]));
    const plots = drawn.map(({ metric: { title } }) => before.get(title) ?? element("div", {
      class: "curve", role: "img", "data-key": title, "aria-label": `${title} by training step`,
    }));
    patchChildren(place, plots.flatMap((plot, n) => [element("h3", {}, drawn[n].metric.title), plot]));
    const axis = { gridcolor: GRID, zeroline: false, automargin: true };
    drawn.forEach(({ metric, traces }, n) => {
      const lines = n < drawn.length - 1 ? 0 : found.length; // of the legend, which is below the last
      const height = 230 + LINE * lines;
      plots[n].style.height = `${height}px`;
      Plotly.react(plots[n], traces, plotLayout({
        height, margin: { l: 48, r: 8, t: 8, b: 40 + LINE * lines }, showlegend: lines > 0,
        legend: { orientation: found.length > 1 ? "v" : "h", x: 0, yref: "container", y: 0, yanchor: "bottom", tracegroupgap: 0 },
        xaxis: { ...axis, title: { text: "step", standoff: 4 } }, yaxis: { ...axis, range: metric.isShare ? [0, 1.02] : undefined },
      }), { displayModeBar: false, responsive: true });
    });
  }

  traces(found, labels, m) { // of the m-th metric: one a seed
    return found.flatMap((one, n) => (one.curves[m]?.seeds ?? []).map((seed, s) => ({
      type: "scatter", mode: seed.steps.length > 1 ? "lines" : "markers", x: seed.steps, y: seed.values,
      name: plain(found.length > 1 ? labels[n] : `seed ${seed.seed}`), showlegend: found.length === 1 || s === 0,
      legendgroup: String(n), line: { color: COLOURS[(found.length > 1 ? n : s) % COLOURS.length], width: 1.6, dash: DASHES[found.length > 1 ? s % DASHES.length : 0] },
      hovertemplate: `%{y:.4g} at step %{x}<extra>${plain(labels[n])}, seed ${plain(seed.seed)}</extra>`,
    })));
  }
}
