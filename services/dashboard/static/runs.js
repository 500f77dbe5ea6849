// The runs of a folder: which there are, a metric of the chosen ones over one another, and the settings on which they differ.
import { byId, COLOURS, compact, element } from "./format.js";

const FIRST = "rl.reward.mean";
const EVERY_MS = 5000;
const HEIGHT = 320;

const chosen = new Set(new URLSearchParams(location.search).getAll("run").slice(0, COLOURS));
let names = [];
let plot = null;

async function getJson(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

const colour = (name) => `--curve-${(names.indexOf(name) % COLOURS) + 1}`;

function row(run) {
  const made = element("tr");
  const box = element("input");
  box.type = "checkbox";
  box.checked = chosen.has(run.name);
  box.disabled = !box.checked && chosen.size >= COLOURS;
  box.setAttribute("aria-label", `compare ${run.name}`);
  box.addEventListener("change", () => {
    box.checked ? chosen.add(run.name) : chosen.delete(run.name);
    refresh();
  });
  const cell = element("td");
  cell.append(box);
  const rewards = [run.reward_first, run.reward_last].filter((r) => r !== null).map((r) => compact(r));
  const state = element("td");
  state.append(element("span", `pill ${run.state}`, run.state || "unknown"));
  made.append(cell, element("td", "", run.name), state, element("td", "", run.steps === null ? "" : String(run.steps)), element("td", "", rewards.join(" → ")), element("td", "", run.reason));
  return made;
}

async function showRuns() {
  const runs = await getJson("/runs.json");
  names = runs.map((run) => run.name);
  if (!chosen.size) names.slice(0, 3).forEach((name) => chosen.add(name));
  for (const name of chosen) if (!names.includes(name)) chosen.delete(name);
  byId("no-runs").hidden = runs.length > 0;
  byId("runs").tBodies[0].replaceChildren(...runs.map(row));
}

async function showDifferences() {
  const query = [...chosen].map((name) => `run=${encodeURIComponent(name)}`).join("&");
  const told = chosen.size ? await getJson(`/compare?${query}`) : { metrics: [FIRST], settings: {}, numbers: {} };
  const select = byId("metric");
  const before = select.value || FIRST;
  if (told.metrics.join() !== [...select.options].map((o) => o.value).join()) {
    select.replaceChildren(...told.metrics.map((name) => new Option(name, name)));
    select.value = told.metrics.includes(before) ? before : (told.metrics[0] ?? "");
  }
  const rows = [...Object.entries(told.settings), ...Object.entries(told.numbers).map(([name, values]) => [name, values.map((v) => (v === null ? "–" : compact(v)))])];
  byId("differences").tHead.rows[0].replaceChildren(...["", ...chosen].map((text) => element("th", "", text)));
  byId("differences").tBodies[0].replaceChildren(
    ...rows.map(([name, values]) => {
      const made = element("tr");
      made.append(element("th", "", name), ...values.map((value) => element("td", "", value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value))));
      return made;
    }),
  );
}

async function showCurves() {
  const metric = byId("metric").value || FIRST;
  const curves = await Promise.all([...chosen].map(async (name) => [name, await getJson(`/runs/${encodeURIComponent(name)}/curve?metric=${encodeURIComponent(metric)}`)]));
  const xs = [...new Set(curves.flatMap(([, curve]) => curve.steps))].sort((a, b) => a - b);
  const columns = curves.map(([, curve]) => {
    const at = new Map(curve.steps.map((step, i) => [step, curve.values[i] ?? undefined]));
    return xs.map((x) => at.get(x));
  });
  const css = getComputedStyle(document.documentElement);
  const value = (name) => css.getPropertyValue(name).trim();
  const axis = { stroke: value("--muted"), font: "11px system-ui, sans-serif", grid: { stroke: value("--grid"), width: 1 }, ticks: { show: false } };
  plot?.destroy();
  plot = new uPlot(
    {
      width: Math.max(200, byId("plot").clientWidth),
      height: HEIGHT,
      legend: { show: false },
      scales: { x: { time: false } },
      axes: [axis, { ...axis, size: 56, values: (_, ticks) => ticks.map((t) => compact(t, 2)) }],
      series: [{}, ...curves.map(([name]) => ({ stroke: value(colour(name)), width: 1.75, spanGaps: true, points: { show: false } }))],
    },
    [xs, ...columns],
    byId("plot"),
  );
  byId("legend").replaceChildren(
    ...curves.map(([name, curve], i) => {
      const reading = element("span", "reading");
      const key = element("i", "key");
      key.style.setProperty("--key", `var(${colour(name)})`);
      reading.append(key, name, element("b", "", compact(columns[i].findLast((v) => v !== undefined && v !== null))));
      return reading;
    }),
  );
  byId("plot").dataset.curves = String(curves.filter(([, curve]) => curve.steps.length).length);
}

async function refresh() {
  try {
    await showRuns();
    await showDifferences();
    await showCurves();
    byId("problem").hidden = true;
  } catch (error) {
    byId("problem").hidden = false;
    byId("problem").textContent = `The page cannot be shown: ${error.message}`;
  }
}

byId("metric").addEventListener("change", refresh);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showCurves);
addEventListener("resize", showCurves);
await refresh();
setInterval(refresh, EVERY_MS);
