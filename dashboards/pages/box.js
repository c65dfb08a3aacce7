// A box that was drawn on the picture, offered as a constraint in the language of `recallfront pick --where`.
import { metricOf } from "./picture.js";

// range: the box in the units of its axes, if there is one; inside: indices of the rows in it, of which `most` are chosen.
export function offerBox(place, data, state, range, inside, most) {
  const where = range ? constraintOf(data, state, range, inside) : "";
  place.hidden = !where;
  if (!where) return;
  const counted = `${inside.length} configuration${inside.length === 1 ? "" : "s"} in the box`;
  place.querySelector(".told").textContent = counted + (inside.length > most ? `, of which the first ${most} are chosen: ` : ": ");
  place.querySelector("code").textContent = where;
  for (const button of place.querySelectorAll("[data-box]")) button.dataset.where = where;
  place.querySelector("[data-box=decide]").hidden = ["x", "y"].some((axis) => metricOf(data, state[axis]).isOfTest); // such a choice is refused
}

function constraintOf(data, state, range, inside) {
  return ["x", "y"].flatMap((axis) => {
    const metric = metricOf(data, state[axis]);
    const ends = range[axis].map((end) => (state[`${axis}s`] === "errors" ? 1 - end : end));
    const own = [...ends, ...inside.map((i) => metric.values[i])]; // what makes no error is drawn where some is made
    const [low, high] = [Math.min(...own), Math.max(...own)];
    const told = low > 0 ? [`${metric.condition} >= ${outward(low, high - low, Math.floor)}`] : [];
    return metric.isShare && high >= 1 ? told : [...told, `${metric.condition} <= ${outward(high, high - low, Math.ceil)}`];
  }).join(" and ");
}

// With about two digits of what the box or the end itself measures, whichever is less.
function outward(end, span, round) {
  const step = 10 ** Math.floor(Math.log10(Math.min(span, Math.abs(end)) / 50));
  return step > 0 ? Number((round(end / step) * step).toPrecision(12)) : end;
}
