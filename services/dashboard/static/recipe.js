// The resolved recipe, fetched once its card is opened; the card is there only where the page knows the run's folder.
import { byId } from "./format.js";

let known = "";

export async function showRecipe(name) {
  if (known === name) return;
  known = name;
  try {
    const response = await fetch(`/runs/${encodeURIComponent(name)}/recipe`);
    byId("recipe-card").hidden = !response.ok;
    if (response.ok) byId("recipe").textContent = await response.text();
  } catch (error) {
    known = ""; // the next event asks again
    console.info("recipe later:", error.message);
  }
}
