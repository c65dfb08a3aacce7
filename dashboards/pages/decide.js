// Deciding: the choice that a constraint leads to, its reason and its command; and, where they are allowed, the actions.
import { readAddress, writeAddress } from "./address.js";
import { ask } from "./dom.js";

const NAMES = { where: "constraint", by: "choose", anywhere: "among" }; // of the form's fields in the address
const LOOK_MS = 2000; // between two looks at a trial that is run again

export class Decision {
  constructor(place, source, explorer, written) {
    Object.assign(this, { place, source, explorer, written, key: null, chosen: null });
    this.form = place.querySelector("form");
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.choose(); });
    place.querySelector("[data-look]").addEventListener("click", () => explorer.pick(this.key));
    place.querySelector("[data-pick]")?.addEventListener("click", (event) => this.act("pick", { ...this.chosen, key: this.key }, event.target));
    document.addEventListener("click", (event) => {
      const boxed = event.target.closest("[data-box=decide]");
      if (boxed) this.constrain(boxed.dataset.where);
      const again = event.target.closest("[data-rerun]");
      if (again) this.act("rerun", { run: again.dataset.rerun }, again);
      const cancel = event.target.closest("[data-cancel]");
      if (cancel) this.act("cancel", {}, cancel);
    });
    this.readPicked();
    this.read();
  }

  read() { // off the address, whose choice is made again
    const asked = readAddress(), known = Object.entries(NAMES).filter(([, name]) => asked.has(name));
    for (const [field, name] of known) {
      const own = this.form.elements[field], value = asked.get(name);
      if (!own.options || [...own.options].some((option) => option.value === value)) own.value = value; // else it offers no such choice
    }
    if (known.length) this.choose();
  }

  constrain(where) {
    this.form.elements.where.value = where;
    this.form.elements.where.focus();
    this.choose();
  }

  async choose() {
    const asked = Object.fromEntries(new FormData(this.form));
    const told = Object.entries(NAMES).map(([field, name]) => [name, asked[field]]);
    writeAddress(Object.values(NAMES), told.filter(([name, value]) => value || name === NAMES.by)); // a choice of the knee is one too
    const turn = this.turn = (this.turn ?? 0) + 1;
    const { ok, found } = await ask(`${this.source}/choice`, { ...asked, at: this.explorer.at });
    if (turn !== this.turn) return; // another choice was made meanwhile
    const error = this.place.querySelector("#choice-error"), outcome = this.place.querySelector(".outcome");
    error.hidden = ok;
    outcome.hidden = !ok;
    this.form.elements.where.setAttribute("aria-invalid", String(!ok));
    if (!ok) { error.textContent = found.error; return; }
    Object.assign(this, { key: found.key, chosen: asked }); // what is shown is registered, whatever the form says later
    outcome.querySelector(".reason").textContent = found.reason;
    outcome.querySelector("code").textContent = found.command;
    outcome.querySelector(".done").textContent = "";
  }

  // The token shows that this server wrote the page: no other site can read it, nor send the header.
  async act(action, asked, button) {
    if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
    const told = button.parentElement.querySelector("[role=status]");
    button.disabled = true;
    told.textContent = "…";
    const headers = { "X-Recallfront-Token": this.place.dataset.token };
    const { ok, found } = await ask(`${this.source}/actions/${action}`, asked, { method: "POST", headers });
    told.textContent = ok ? found.done : found.error;
    if (ok && action === "pick") this.readPicked();
    if (ok && action === "rerun") await this.awaitRerun(asked.run);
    button.disabled = false;
  }

  async awaitRerun(run) {
    let ok, found;
    do {
      await new Promise((done) => setTimeout(done, LOOK_MS));
      ({ ok, found } = await ask(`${this.source}/rerun`, { run }));
    } while (ok && !found.told);
    const verdict = ok ? found.told : found.error;
    this.place.querySelector(".rerun").textContent = `run ${run.slice(0, 8)}: ${verdict}`;
    const beside = document.querySelector(`[data-rerun="${CSS.escape(run)}"] + [role=status]`);
    if (beside) beside.textContent = verdict; // its panel is open, or open again
  }

  async readPicked() {
    const { ok, found } = await ask(`${this.source}/picked`);
    if (!ok) return; // the list is left out
    this.place.querySelector(".picked").innerHTML = found.html; // of the server's template, which escapes every value
    this.written();
  }
}
