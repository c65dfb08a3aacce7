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

const keyOf = (node) => node.dataset?.key ?? (node.id || undefined);

// Makes a place's children like others, and leaves alone what is the same: nodes stay the ones they are, and with them
// focus, selection, scrolling and open details. Nodes that have keys are known by these, others by their order.
export function patchChildren(place, fresh) {
  const focused = document.activeElement, old = [...place.childNodes];
  const keyed = new Map(old.filter(keyOf).map((node) => [keyOf(node), node])), others = old.filter((node) => !keyOf(node));
  const taken = (node) => {
    if (keyOf(node)) return keyed.get(keyOf(node));
    const at = others.findIndex((one) => one.nodeName === node.nodeName);
    return at < 0 ? undefined : others.splice(0, at + 1).pop();
  };
  const nodes = fresh.map((node) => patch(taken(node), node)), wanted = new Set(nodes);
  old.filter((node) => !wanted.has(node)).forEach((node) => node.remove());
  let at = place.firstChild;
  for (const node of nodes) if (node === at) at = at.nextSibling; else place.insertBefore(node, at);
  if (focused !== document.activeElement && place.contains(focused)) focused.focus({ preventScroll: true });
}

// Of `data-kept` nodes scripts alone change what is inside, and a reader opens details.
function patch(old, fresh) {
  if (old?.nodeName !== fresh.nodeName) return fresh;
  if (old.isEqualNode(fresh) || old.dataset?.kept !== undefined) return old;
  if (!old.attributes) { old.data = fresh.data; return old; }
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  patchChildren(old, [...fresh.childNodes]);
  return old;
}

// Plotly reads some HTML in what it is given.
export function plain(text) {
  return String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
export function number(value) {
  return value === null || value === undefined ? "–" : digits.format(value);
}

// What the server has found, or a sentence in `found.error` where `ok` is false: it never throws.
export async function ask(address, parameters = {}, how = {}) {
  let answer;
  try {
    answer = await fetch(`${address}?${new URLSearchParams(parameters)}`, { ...how, headers: { Accept: "application/json", ...how.headers } });
    const found = await answer.json();
    return { ok: answer.ok && found.error === undefined, found };
  } catch {
    return { ok: false, found: { error: answer ? `the server fails with status ${answer.status}` : "the server does not answer" } };
  }
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

export function onDark() { return matchMedia("(prefers-color-scheme: dark)").matches; }

// A mark's colour on this page: a dark one would be lost on a dark page, and is mixed with white there.
export function onPage(colour) {
  if (!onDark()) return colour;
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  if (0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 75) return colour;
  return `#${parts.map((part) => Math.round(0.5 * part + 127).toString(16)).join("")}`;
}

export function option(title, value) { return element("option", { value, "data-key": value || "any" }, title); }
