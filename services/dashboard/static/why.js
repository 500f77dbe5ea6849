// The "why" panel: what every service waits for, joined by the coordinator into one sentence.
import { byId, elapsed, element } from "./format.js";

export class Why {
  constructor() {
    byId("why-button").addEventListener("click", () => this.ask());
    byId("why-close").addEventListener("click", () => {
      byId("why").hidden = true;
    });
  }

  async ask() {
    byId("why").hidden = false;
    byId("why-text").textContent = "Asking every service…";
    byId("why-table").hidden = true;
    try {
      const response = await fetch("/explain");
      const answer = await response.json();
      byId("why-text").textContent = response.ok ? answer.explanation : `The coordinator cannot say: ${answer.error}`;
      if (response.ok) this.#show(answer.services ?? []);
    } catch (error) {
      byId("why-text").textContent = `The dashboard does not answer: ${error.message}`;
    }
  }

  #show(services) {
    const rows = services.flatMap((service) => {
      if (service.unreachable) return [this.#row(service.service, "does not answer", service.address, "", "bad")];
      const waits = service.waits ?? [];
      if (!waits.length) return [this.#row(service.service, "nothing: it is working", "", "", "")];
      return waits.map((w) => this.#row(service.service, w.what, w.on, elapsed((Date.now() - new Date(w.since)) / 1000), ""));
    });
    byId("why-table").tBodies[0].replaceChildren(...rows);
    byId("why-table").hidden = !rows.length;
  }

  #row(...cells) {
    const row = element("tr", cells.pop());
    row.append(...cells.map((text) => element("td", "", text)));
    return row;
  }
}
