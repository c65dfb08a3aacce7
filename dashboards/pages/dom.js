// Small helpers: elements whose content is always text, and figures for people.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

// Plotly reads some HTML in what it is given.
export function plain(text) {
  return String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
export function number(value) {
  return value === null || value === undefined ? "–" : digits.format(value);
}

export async function ask(address, parameters = {}) {
  const answer = await fetch(`${address}?${new URLSearchParams(parameters)}`);
  return { ok: answer.ok, found: await answer.json() };
}

export function plotLayout(more) {
  const ink = getComputedStyle(document.body).color;
  const font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink };
  const clear = "rgba(0,0,0,0)";
  const layout = {
    template: "none", font, paper_bgcolor: clear, plot_bgcolor: clear, hoverlabel: { align: "left" },
    modebar: { bgcolor: clear, color: "#7b8794", activecolor: "#0072B2" }, ...more,
  };
  if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
  return layout;
}

export const GRID = "rgba(123, 135, 148, 0.28)";
