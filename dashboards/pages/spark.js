// Small pictures of how the hypervolume of the listed sweeps grew, asked for once the list itself is seen.
import { ask } from "./dom.js";

const [WIDTH, HEIGHT] = [120, 28];

export async function drawSparklines(list) {
  const places = [...list.querySelectorAll("[data-spark]")];
  if (!places.length) return;
  const { ok, found } = await ask(list.dataset.sparklines, places.map((place) => ["sweep", place.dataset.spark]));
  for (const place of ok ? places : []) {
    const values = found[place.dataset.spark] ?? [], most = Math.max(...values, 0);
    if (values.length < 2 || !most) continue;
    const points = values.map((value, i) => `${(i * WIDTH) / (values.length - 1)},${HEIGHT - 1 - (value / most) * (HEIGHT - 3)}`);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.join(" "));
    place.append(line);
  }
}
