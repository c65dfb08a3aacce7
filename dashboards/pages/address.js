// What is chosen on a page, in its address, so that a view can be sent: each part of the page has names of its own there.

export function readAddress() { return new URLSearchParams(location.search); }

// names: all that a part has; entries: what it says now, in pairs.
export function writeAddress(names, entries) {
  const asked = readAddress();
  for (const name of names) asked.delete(name);
  for (const [name, value] of entries) asked.append(name, value);
  const text = asked.toString();
  history.replaceState(null, "", location.pathname + (text ? `?${text}` : "") + location.hash);
}
