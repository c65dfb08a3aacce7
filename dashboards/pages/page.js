// Every page: writes times as the reader's clock has them and copies commands. A sweep's: draws it and keeps it fresh.
import { readAddress, writeAddress } from "./address.js";
import { Decision } from "./decide.js";
import { patchChildren } from "./dom.js";
import { Explorer } from "./explore.js";
import { drawSparklines } from "./spark.js";

const REFRESH_MS = 5000;
const MLFLOW_VIEW = "mlflow.workflowType_v1"; // where MLflow's pages, of the same server, keep whose views they open on
const chosen = {}; // which of its buttons a figure is drawn by

function draw(figures) {
  const ink = getComputedStyle(document.body).color;
  for (const place of document.querySelectorAll("[data-figure]")) {
    const { data, layout } = structuredClone(figures[place.dataset.figure]);
    layout.font.color = ink;
    if (!place.classList.contains("own-height")) layout.height = place.clientHeight;
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
    if (layout.updatemenus) { // the page's own buttons take their place
      const choice = chosen[place.dataset.figure] ?? 0;
      const [restyle, relayout] = layout.updatemenus[0].buttons[choice].args;
      for (const [path, values] of Object.entries(restyle)) data.forEach((trace, i) => put(trace, path, values[i]));
      for (const [path, value] of Object.entries(relayout)) put(layout, path, value);
      layout.xaxis.uirevision = layout.yaxis.uirevision = choice;
      delete layout.updatemenus;
    }
    const config = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]] };
    Plotly.react(place, data, layout, config);
  }
  document.querySelectorAll("[data-scale]").forEach((button) => {
    button.setAttribute("aria-pressed", String(Number(button.dataset.scale) === (chosen[button.dataset.of] ?? 0)));
  });
}

function readScales() { // off the address: by which of its buttons a figure is drawn
  for (const { dataset: { of, scale } } of document.querySelectorAll("[data-scale]")) {
    if (readAddress().get(of) === scale) chosen[of] = Number(scale);
  }
}

function put(object, path, value) {
  const keys = path.split("."), last = keys.pop();
  for (const key of keys) object = object[key] ??= {};
  object[last] = value;
}

function writeTimes(place = document) {
  for (const time of place.querySelectorAll("time[data-seconds]")) {
    const date = new Date(1000 * Number(time.dataset.seconds));
    time.dateTime = date.toISOString();
    time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

async function refresh(live, state) {
  try {
    const answer = await fetch(`${live.dataset.source}/live`);
    if (answer.ok) {
      const fresh = await answer.json();
      const written = document.createElement("div");
      written.innerHTML = fresh.html; // of the server's template, which escapes every value
      writeTimes(written);
      patchChildren(live, [...written.childNodes]);
      state.explorer?.update(fresh.explore, fresh.at);
      if (JSON.stringify(fresh.figures) !== JSON.stringify(state.figures)) draw(state.figures = fresh.figures);
      if (!fresh.running) return;
    }
  } catch { /* the server is away: ask again */ }
  setTimeout(refresh, REFRESH_MS, live, state);
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch { // pages that did not come over https may not write: select it for the reader
    document.getSelection().selectAllChildren(code);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function start() {
  const live = document.getElementById("live"), state = {};
  writeTimes();
  document.addEventListener("click", (event) => {
    const copied = event.target.closest("[data-copy]");
    const wanted = event.target.closest("[data-scale]"), looked = event.target.closest("a[href^='?show=']");
    if (copied) { event.preventDefault(); copy(copied); }
    if (wanted) {
      const { of, scale } = wanted.dataset;
      chosen[of] = Number(scale);
      writeAddress([of], chosen[of] ? [[of, scale]] : []);
      draw(state.figures);
    }
    if (looked && state.explorer && !event.ctrlKey && !event.metaKey) { // the page is here already
      event.preventDefault();
      state.explorer.pick(new URLSearchParams(looked.search).get("show"), event);
    }
  });
  const list = document.querySelector("[data-sparklines]");
  if (list) drawSparklines(list);
  const shown = document.getElementById("shown");
  if (!shown) return;
  const { figures, explore, at } = JSON.parse(shown.textContent);
  state.figures = figures;
  readScales();
  draw(figures);
  const place = document.getElementById("explore");
  if (place) state.explorer = new Explorer(place, explore, live.dataset.source, at);
  const decide = document.getElementById("decide");
  if (decide) state.decision = new Decision(decide, live.dataset.source, state.explorer, writeTimes);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    draw(state.figures);
    state.explorer?.choose(state.explorer.state.chosen);
  });
  if (live?.dataset.running === "yes") setTimeout(refresh, REFRESH_MS, live, state);
}

start();

// Until their reader has chosen, MLflow's pages open an experiment on GenAI's overview, which shows no runs.
function openMlflowOnRuns() {
  try {
    if (localStorage.getItem(MLFLOW_VIEW) === null) localStorage.setItem(MLFLOW_VIEW, JSON.stringify("machine_learning"));
  } catch (error) {
    console.info(`MLflow's pages open on their own choice: ${error}`); // a browser may keep nothing
  }
}

openMlflowOnRuns();
