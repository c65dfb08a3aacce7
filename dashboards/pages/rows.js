// Which rows of a sweep the filters leave: indices in the order of the data; `matching` is what a condition selects, or null.
export function seenRows(data, state, matching) {
  const ranges = [...state.knobs].map(([name, ends]) => [data.knobs.find((knob) => knob.name === name), ends]).filter(([knob]) => knob);
  const within = (i) => ranges.every(([knob, [low, high]]) => {
    const value = knob.values[i];
    if (!knob.isNumber) return !low || value === low;
    return value !== null && (low === "" || value >= Number(low)) && (high === "" || value <= Number(high));
  });
  return data.rows.map((_, i) => i).filter((i) => {
    const row = data.rows[i];
    return state.statuses.has(row.status) && !state.hidden.has(row.architecture) && (!matching || matching.has(row.key)) && within(i);
  });
}
