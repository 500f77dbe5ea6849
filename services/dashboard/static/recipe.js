// The resolved recipe and what was changed of it on the way; the card is there only where the page knows the run's folder.
import { byId } from "./format.js";

let known = "";

function item(text) {
  const element = document.createElement("li");
  element.textContent = text;
  return element;
}

export async function showRecipe(run) {
  const changes = run.changes ?? [];
  byId("changes").hidden = !changes.length;
  byId("changes").replaceChildren(...changes.map(item));
  const name = run.name;
  // A run that goes on with other settings has another recipe.
  const wanted = `${name} ${changes.length}`;
  if (known === wanted) return;
  known = wanted;
  try {
    const response = await fetch(`/runs/${encodeURIComponent(name)}/recipe`);
    byId("recipe-card").hidden = !response.ok;
    if (response.ok) byId("recipe").textContent = await response.text();
  } catch (error) {
    known = ""; // the next event asks again
    console.info("recipe later:", error.message);
  }
}
