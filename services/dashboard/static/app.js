// The page of one run: listens to /events, fetches history and samples when they have changed, and hands them to the
// panels. What the page shows is always the coordinator's last word; when the coordinator is away it says so.
import { Charts } from "./charts.js";
import { showRun } from "./panels.js";
import { showSamples } from "./samples.js";
import { showVersions } from "./versions.js";
import { showRecipe } from "./recipe.js";
import { Why } from "./why.js";
import { byId, elapsed } from "./format.js";

const SAMPLES_EVERY_MS = 1500;

const steps = new Map(); // step -> {step, at, metrics}
const charts = new Charts(byId("charts"));
new Why();
let run = null;
let awaySince = null;
let fetchingHistory = false;
let samplesAt = 0;
let samplesTimer = null;

async function getJson(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

// Everything after the newest step we have, page by page.
async function fetchHistory() {
  if (fetchingHistory) return;
  fetchingHistory = true;
  try {
    for (let more = true; more; ) {
      const page = await getJson(`/history?after=${Math.max(0, ...steps.keys())}`);
      for (const report of page.steps) steps.set(Number(report.step), report);
      more = page.more && page.steps.length > 0;
      charts.show(steps, run?.evaluations ?? []);
    }
  } catch (error) {
    console.info("history later:", error.message); // the next event asks again
  } finally {
    fetchingHistory = false;
  }
}

async function fetchSamples() {
  samplesTimer = null;
  samplesAt = Date.now();
  try {
    showSamples(await getJson("/samples"));
  } catch (error) {
    console.info("samples later:", error.message);
  }
  try {
    showVersions(await getJson("/versions"));
  } catch (error) {
    console.info("versions later:", error.message);
  }
}

function samplesSoon() {
  samplesTimer ??= setTimeout(fetchSamples, Math.max(0, samplesAt + SAMPLES_EVERY_MS - Date.now()));
}

function showAway(detail) {
  byId("away").hidden = false;
  byId("away-since").textContent = awaySince ? `, ${elapsed((Date.now() - awaySince) / 1000)} old` : "";
  byId("away-detail").textContent = detail;
  document.body.classList.add("stale");
}

function showPresent() {
  awaySince = null;
  byId("away").hidden = true;
  document.body.classList.remove("stale");
}

const events = new EventSource("/events");
events.onmessage = (message) => {
  showPresent();
  run = JSON.parse(message.data);
  showRun(run);
  showRecipe(run);
  charts.show(steps, run.evaluations ?? []);
  if (Number(run.step ?? 0) > Math.max(0, ...steps.keys())) fetchHistory();
  samplesSoon();
};
events.addEventListener("away", (message) => {
  awaySince ??= Date.now();
  showAway(JSON.parse(message.data));
});
events.onerror = () => {
  awaySince ??= Date.now();
  showAway("the dashboard process does not answer");
};
