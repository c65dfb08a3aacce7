// The picture of the explorer: configurations against any two figures, a third as colour or size.
import { GRID, number, onDark, onPage, plain, plotLayout } from "./dom.js";

const RING = "#7b8794";
const MOST_BARS = 400; // marks beyond which spreads are not drawn
const LEGEND_FROM = 600; // pixels; narrower, it would be a column longer than the picture, and the filter shows the same

const FOR_DARK = [[0, "#46669f"], [0.25, "#2a788e"], [0.5, "#22a884"], [0.75, "#7ad151"], [1, "#fde725"]]; // Viridis from where it is seen

// state: what was chosen; seen: indices of the rows that the filters leave.
export function drawPicture(place, data, state, seen, chosen) {
  const [x, y] = [axisOf(data, state.x, state.xs, seen), axisOf(data, state.y, state.ys, seen)];
  const traces = [staircase(data, state, x, y), ...marks(data, state, seen, x, y), rings(data, chosen, x, y)];
  const layout = plotLayout({
    height: place.clientHeight, margin: { l: 64, r: 20, t: 16, b: 56 }, uirevision: [state.x, state.y, state.xs, state.ys].join(),
    xaxis: x.layout, yaxis: y.layout, showlegend: place.clientWidth >= LEGEND_FROM, legend: { orientation: "h", x: 0, y: -0.17, yanchor: "top", itemdoubleclick: false },
    hovermode: "closest",
  });
  const coloured = metricOf(data, state.colour);
  if (coloured) layout.coloraxis = { colorscale: onDark() ? FOR_DARK : "Viridis", ...ends(coloured, seen), colorbar: { title: { text: plain(coloured.title), side: "right" }, thickness: 12, ...ticks(coloured, seen) } };
  const config = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "select2d", "zoom2d", "resetScale2d"]] };
  place.querySelectorAll(".left-out").forEach((part) => part.classList.remove("left-out")); // Plotly draws other marks by the same elements
  Plotly.react(place, traces.filter(Boolean), layout, config);
}

// Takes the marks off the drawn picture that are not `seen`, and brings back those of them that are; the axes stay.
export function hideMarks(place, seen) {
  const left = new Set(seen);
  for (const trace of place.querySelectorAll(".scatterlayer .trace")) {
    const rows = trace.__data__[0].trace.meta?.rows; // to elements, Plotly binds what they show
    if (!rows) continue;
    for (const part of trace.querySelectorAll(".point, .errorbar")) part.classList.toggle("left-out", !left.has(rows[part.__data__.i]));
  }
}

const SPREAD = " spread"; // ends the name of a figure's spread, which is one to colour and to size by

export function metricOf(data, name) {
  const found = data.metrics.find((metric) => metric.name === name);
  if (found || !name?.endsWith(SPREAD)) return found;
  const metric = data.metrics.find((one) => one.name === name.slice(0, -SPREAD.length));
  return metric?.spreads ? spreadOf(metric) : undefined;
}

export function withSpreads(data) {
  return data.metrics.flatMap((metric) => (metric.spreads ? [metric, spreadOf(metric)] : [metric]));
}

function spreadOf(metric) {
  const title = `${metric.title}, spread`;
  return { name: metric.name + SPREAD, title, axis: title, isShare: false, isLog: false, values: metric.spreads, spreads: null };
}

// A figure for a colour or a size: on a logarithm where its axis is, and there only if it has one.
function scaled(metric, value) {
  if (value === null || !metric.isLog) return value;
  return value > 0 ? Math.log10(value) : null;
}

// Where the colours begin and end: Plotly would make room around an architecture's only value.
function ends(metric, seen) {
  const own = seen.map((i) => scaled(metric, metric.values[i])).filter(Number.isFinite);
  const [low, high] = [Math.min(...own), Math.max(...own)];
  if (!own.length) return {};
  const room = low < high ? 0 : Math.abs(low) / 100 || 0.01;
  return { cmin: low - room, cmax: high + room };
}

// Of the colours of a logarithm, which tell the figures themselves.
function ticks(metric, seen) {
  const own = seen.map((i) => metric.values[i]).filter((value) => value > 0);
  if (!metric.isLog || !own.length) return {};
  const [low, high] = [Math.min(...own), Math.max(...own)];
  const factors = high / low > 100 ? [1] : [1, 2, 5], values = [];
  for (let ten = 10 ** Math.floor(Math.log10(low)); ten <= high; ten *= 10) values.push(...factors.map((factor) => factor * ten));
  const between = values.filter((value) => value >= low && value <= high);
  const shown = between.length > 1 ? between : [...new Set([low, high])];
  return { tickvals: shown.map(Math.log10), ticktext: shown.map(number) };
}

// How a figure lies on an axis: as it is, on a logarithm, or as errors, 1 - value, on a logarithm that points down.
function axisOf(data, name, scale, seen) {
  const metric = metricOf(data, name);
  const errors = seen.map((i) => 1 - metric.values[i]).filter((error) => error > 0 && error < Infinity);
  const least = errors.length ? Math.min(...errors) / 2 : 5e-4; // where what makes no error is drawn
  const at = (value) => {
    if (value === null) return null;
    if (scale === "errors") return Math.max(1 - value, least);
    return scale === "log" && value <= 0 ? null : value;
  };
  const title = scale === "errors" ? `1 − ${metric.axis}, log scale` : scale === "log" ? `${metric.axis}, log scale` : metric.axis;
  const layout = {
    title: { text: plain(title), standoff: 10 }, automargin: true, gridcolor: GRID, zeroline: false, ticks: "outside", tickcolor: GRID,
    type: scale === "linear" ? "linear" : "log",
  };
  if (scale === "errors") layout.autorange = "reversed";
  if (scale !== "linear") Object.assign(layout, { dtick: seen.length ? undefined : 1, exponentformat: "SI", minexponent: 4 });
  return { name, metric, scale, at, layout };
}

function marks(data, state, seen, x, y) {
  const size = metricOf(data, state.size), colour = metricOf(data, state.colour);
  const sized = sizes(size, seen);
  const bars = seen.length <= MOST_BARS;
  const texts = textsOf(data, [x.metric, y.metric, colour, size]);
  return Object.entries(data.marks).flatMap(([architecture, { symbol, colour: usual }]) => {
    const mark = { symbol, colour: onPage(usual) };
    const own = seen.filter((i) => data.rows[i].architecture === architecture && x.at(x.metric.values[i]) !== null && y.at(y.metric.values[i]) !== null);
    const known = { type: "scatter", mode: "markers", name: plain(architecture), meta: { architecture, rows: own } };
    const named = { ...known, x: [null], y: [null], marker: { symbol, size: 9, color: colour ? RING : mark.colour } }; // in the legend alone
    if (state.hidden.has(architecture)) return { ...named, visible: "legendonly" }; // a click brings it back
    if (!own.length) return [];
    const rows = own.map((i) => data.rows[i]);
    const trace = {
      ...known, x: own.map((i) => x.at(x.metric.values[i])), y: own.map((i) => y.at(y.metric.values[i])),
      hoverinfo: "text", hovertext: own.map(texts),
      marker: {
        symbol: rows.map((row) => mark.symbol + (row.front ? "" : "-open")),
        size: own.map((i, n) => (size ? sized(i) : rows[n].front ? 13 : 9)),
        opacity: rows.map((row) => (row.status === "finished" ? 1 : 0.45)),
        color: colour ? own.map((i) => scaled(colour, colour.values[i])) : mark.colour,
        line: { width: 1.6, color: colour ? undefined : rows.map((row) => (row.front ? "#ffffff" : mark.colour)) },
      },
      selected: { marker: { opacity: 1 } }, unselected: { marker: { opacity: 1 } },
    };
    if (bars) Object.assign(trace, { error_x: spreads(x, own, mark), error_y: spreads(y, own, mark) });
    if (!colour) return trace;
    trace.marker.coloraxis = "coloraxis";
    return [{ ...trace, showlegend: false }, { ...named, meta: { architecture } }];
  });
}

// The row that a point of the picture is of; undefined of what is none. As customdata, Plotly would style every mark once more.
export function rowOf(point) { return point.data.meta?.rows[point.pointNumber]; }

function spreads(axis, own, mark) {
  if (!axis.metric.spreads) return undefined;
  const most = axis.metric.isShare ? 1 : Infinity;
  const ends = own.map((i) => {
    const [value, spread] = [axis.metric.values[i], axis.metric.spreads[i] ?? 0];
    const [low, high] = [Math.max(value - spread, Math.min(value, 0)), Math.min(value + spread, Math.max(value, most))];
    const [here, one, other] = [axis.at(value), axis.at(low) ?? axis.at(value), axis.at(high)];
    return [here - Math.min(one, other), Math.max(one, other) - here];
  });
  const style = { color: mark.colour, thickness: 1.2, width: 3 };
  return { ...style, type: "data", symmetric: false, arrayminus: ends.map(([below]) => below), array: ends.map(([, above]) => above) };
}

function sizes(metric, seen) {
  if (!metric) return null;
  const own = seen.map((i) => scaled(metric, metric.values[i])).filter((value) => value !== null);
  const [low, high] = [Math.min(...own), Math.max(...own)];
  return (i) => {
    const value = scaled(metric, metric.values[i]);
    return value === null ? 6 : 7 + 19 * ((value - low) / (high - low || 1));
  };
}

// The edge of what the front dominates, where both axes are its objectives.
function staircase(data, state, x, y) {
  if (data.objectives.length !== 2) return null;
  const [across, up] = [state.x, state.y].map((name) => data.objectives.find((o) => o.name === name));
  if (!across || !up || across === up) return null;
  const points = data.rows.flatMap((row, i) => (row.front ? [[x.metric.values[i], y.metric.values[i]]] : []));
  points.sort((one, other) => across.sign * (one[0] - other[0]));
  const [xs, ys] = [[], []];
  points.forEach(([px, py], n) => {
    xs.push(x.at(px)); ys.push(y.at(py));
    if (n + 1 < points.length) { xs.push(x.at(px)); ys.push(y.at(points[n + 1][1])); }
  });
  return { type: "scatter", mode: "lines", x: xs, y: ys, name: "front", hoverinfo: "skip", line: { color: RING, width: 1.5, dash: "dot" } };
}

function rings(data, chosen, x, y) {
  const knee = data.rows.findIndex((row) => row.knee);
  const ringed = [...new Set([...chosen, knee])].filter((i) => i >= 0 && x.at(x.metric.values[i]) !== null && y.at(y.metric.values[i]) !== null);
  return {
    type: "scatter", mode: "markers+text", showlegend: false, hoverinfo: "skip", cliponaxis: false, textposition: "top right",
    x: ringed.map((i) => x.at(x.metric.values[i])), y: ringed.map((i) => y.at(y.metric.values[i])), text: ringed.map((i) => (i === knee ? "knee" : "")),
    marker: { symbol: "circle-open", size: 25, color: ringed.map((i) => (chosen.includes(i) ? "#D55E00" : RING)), line: { width: ringed.map((i) => (chosen.includes(i) ? 3 : 2)) } },
  };
}

const written = new WeakMap(); // of some data: what is told of its rows, by the figures that are shown

// What the pointer is told of a row; written once, as a filter changes none of it.
function textsOf(data, metrics) {
  if (!written.has(data)) written.set(data, {});
  const own = written.get(data)[metrics.map((metric) => metric?.name).join()] ??= [];
  return (i) => own[i] ??= hover(data, i, metrics);
}

function hover(data, i, metrics) {
  const row = data.rows[i];
  const told = [...new Set(metrics.filter(Boolean))].map((metric) => {
    const spread = metric.spreads?.[i];
    return `${metric.title}: ${number(metric.values[i])}${spread ? ` ±${number(spread)}` : ""}`;
  });
  const lines = [row.label, ...told, `${row.status}, ${row.seeds} seed${row.seeds === 1 ? "" : "s"}`, row.doubts].filter(Boolean);
  return lines.map(plain).join("<br>");
}
