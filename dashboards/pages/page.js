// Draws the figures, keeps a running sweep's page fresh, copies commands, and writes times as the reader's clock has them.
"use strict";

const REFRESH_MS = 5000;
const chosen = { front: 0, history: 0 }; // which of its buttons a figure is drawn by

function draw(figures) {
  const ink = getComputedStyle(document.body).color;
  for (const place of document.querySelectorAll("[data-figure]")) {
    const { data, layout } = structuredClone(figures[place.dataset.figure]);
    layout.font.color = ink;
    layout.height = place.clientHeight;
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
    if (layout.updatemenus) { // the page's own buttons take their place
      const choice = chosen[place.dataset.figure];
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
    button.setAttribute("aria-pressed", String(Number(button.dataset.scale) === chosen[button.dataset.of]));
  });
}

function put(object, path, value) {
  const keys = path.split("."), last = keys.pop();
  for (const key of keys) object = object[key] ??= {};
  object[last] = value;
}

function writeTimes() {
  for (const time of document.querySelectorAll("time[data-seconds]")) {
    const date = new Date(1000 * Number(time.dataset.seconds));
    time.dateTime = date.toISOString();
    time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

// New text around the plots, which stay where they are so that zoom and hidden architectures last.
function replaceAround(live, html) {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  for (const place of fresh.querySelectorAll("[data-figure]")) {
    const drawn = document.getElementById(place.id);
    if (drawn) place.replaceWith(drawn);
  }
  const scrolled = [...live.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
  live.replaceChildren(...fresh.childNodes);
  live.querySelectorAll(".scroll").forEach((box, i) => scrolled[i] && box.scrollTo(...scrolled[i]));
}

async function refresh(live, state) {
  try {
    const answer = await fetch(live.dataset.source);
    if (answer.ok) {
      const fresh = await answer.json();
      state.figures = fresh.figures;
      if (!document.getSelection().toString()) replaceAround(live, fresh.html); // never under a selection
      writeTimes();
      draw(state.figures);
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
  writeTimes();
  const live = document.getElementById("live");
  const state = { figures: null };
  document.addEventListener("click", (event) => {
    const copied = event.target.closest("[data-copy]");
    const wanted = event.target.closest("[data-scale]");
    if (copied) { event.preventDefault(); copy(copied); }
    if (wanted) { chosen[wanted.dataset.of] = Number(wanted.dataset.scale); draw(state.figures); }
  });
  if (!live) return;
  state.figures = JSON.parse(document.getElementById("figures").textContent);
  draw(state.figures);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(state.figures));
  if (live.dataset.running === "yes") setTimeout(refresh, REFRESH_MS, live, state);
}

start();
