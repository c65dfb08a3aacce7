// The filters by knobs: a numeric one by its range, any other by its value.
import { element, number, option, patchChildren } from "./dom.js";

export function fillKnobs(details, data, state) {
  const place = details.querySelector(".knobs");
  details.hidden = !data.knobs.length;
  patchChildren(place, data.knobs.map((knob) => {
    const own = [...new Set(knob.values.filter((value) => value !== null))];
    if (!knob.isNumber) {
      const select = element("select", { "data-knob": knob.name }, ...["", ...own.sort()].map((value) => option(value || "any", value)));
      return element("label", { "data-key": knob.name }, knob.name, select);
    }
    const end = (which, hint) => element("input", {
      type: "number", step: "any", placeholder: number(hint), "data-knob": knob.name, "data-end": which,
      "aria-label": `${knob.name}, ${which ? "at most" : "at least"}`,
    });
    return element("div", { "data-key": knob.name }, element("label", {}, knob.name), element("div", { class: "ends" }, end(0, Math.min(...own)), end(1, Math.max(...own))));
  }));
  for (const field of place.querySelectorAll("[data-knob]")) {
    const value = state.knobs.get(field.dataset.knob)?.[Number(field.dataset.end ?? 0)] ?? "";
    if (field.value !== value && field !== document.activeElement) field.value = value;
  }
  if (state.knobs.size) details.open = true;
}
