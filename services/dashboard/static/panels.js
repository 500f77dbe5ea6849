// Header, key numbers and sample accounting of a Run (proto field names; absent numbers are 0, 64-bit ones strings).
import { byId, compact, elapsed, element, enumName, whole } from "./format.js";

const FATES = [
  ["trained", "trained"],
  ["filtered", "filtered"],
  ["expired", "expired"],
  ["failed", "failed"],
  ["in_flight", "in flight"],
];
const OVER = ["DONE", "STOPPED", "FAILED"];

export function showRun(run) {
  showHeader(run);
  showNumbers(run);
  showAccounting(run.samples ?? {});
  showMembers(run.members ?? []);
  showEvaluations(run.evaluations ?? []);
}

const SHOWN_EVALUATIONS = 12; // the newest

function showEvaluations(evaluations) {
  const shown = evaluations.slice(-SHOWN_EVALUATIONS);
  byId("evaluations-card").hidden = !shown.length;
  const names = [...new Set(shown.flatMap((e) => Object.keys(e.metrics ?? {})))].sort();
  const head = ["", ...shown.map((e) => `version ${e.step ?? 0}`)].map((text) => element("th", "", text));
  byId("evaluations").tHead.rows[0].replaceChildren(...head);
  byId("evaluations").tBodies[0].replaceChildren(
    ...names.map((name) => {
      const row = element("tr");
      row.append(element("th", "", name), ...shown.map((e) => element("td", "", compact(e.metrics?.[name]))));
      return row;
    }),
  );
}

function showMembers(members) {
  const states = members.map((m) => enumName(m.state, "MEMBER_STATE_"));
  byId("members-card").hidden = !members.length;
  byId("members-count").textContent = `${states.filter((s) => s === "READY").length} of ${members.length} ready`;
  byId("members").tBodies[0].replaceChildren(
    ...members.map((m, i) => {
      const row = element("tr", "");
      const where = m.zone ? `${m.host} (${m.zone})` : m.host;
      row.append(...[m.instance, states[i].toLowerCase(), where, m.address, m.version].map((text) => element("td", "", text ?? "")));
      return row;
    }),
  );
}

function showHeader(run) {
  const state = enumName(run.state, "RUN_STATE_");
  const step = Number(run.step ?? 0);
  const steps = Number(run.max_steps ?? 0);
  document.title = `${run.name} · ${step}/${steps} · penstock`;
  byId("run-name").textContent = run.name;
  byId("state").textContent = state;
  byId("state").className = `pill ${state.toLowerCase()}`;
  byId("algorithm").textContent = run.algorithm ?? "";
  byId("step-text").textContent = `step ${whole(step)} of ${whole(steps)}`;
  byId("step-bar").style.width = `${steps ? (100 * step) / steps : 0}%`;
  const said = run.reason || run.stall || "";
  byId("reason").hidden = !said;
  byId("reason").textContent = said;
  const alerts = run.alerts ?? [];
  byId("alerts").hidden = !alerts.length;
  byId("alerts").textContent = alerts.join(" · ");
  const ran = run.started_at ? (new Date(run.updated_at) - new Date(run.started_at)) / 1000 : 0;
  const left = step && !OVER.includes(state) ? ` · about ${elapsed((ran / step) * (steps - step))} left` : "";
  byId("time-text").textContent = ran ? `${elapsed(ran)}${left}` : "";
}

function showNumbers(run) {
  const m = run.metrics ?? {};
  const evaluations = run.evaluations ?? [];
  const evaluated = evaluations.at(-1);
  const before = evaluations.length > 1 ? evaluations[0] : null;
  // Rewards of what was played; else what the learner measured on held-out rows.
  const measured = ["reward", "accuracy", "loss"].find((name) => evaluated?.metrics?.[name] !== undefined);
  const trained = run.trained_version ? `v${run.trained_version.step ?? 0}` : "v0";
  const serving = `v${run.serving_version?.step ?? 0}`;
  const perSecond = m["rl.step.seconds"] ? m["rl.tokens.trained"] / m["rl.step.seconds"] : undefined;
  // What samples begin with alike is computed once.
  const computed = m["rl.tokens.given"] > m["rl.tokens.computed"] ? ` · ${Math.round((100 * m["rl.tokens.computed"]) / m["rl.tokens.given"])} % computed` : "";
  const spread = m["rl.reward.std"] !== undefined ? `± ${compact(m["rl.reward.std"])} in the batch` : "latest step";
  const dead = m["rl.groups.dead"] > 0 ? ` · ${Math.round(100 * m["rl.groups.dead"])} % of groups taught nothing` : "";
  const tiles = [
    ["Reward", compact(m["rl.reward.mean"]), spread + dead],
    ["Evaluation", compact(evaluated?.metrics?.[measured]), evaluated ? `${measured} at v${evaluated.step ?? 0}` + (before ? ` · ${compact(before.metrics?.[measured])} at v${before.step ?? 0}` : "") : "none yet"],
    ["Staleness", compact(m["rl.staleness.mean"], 2), `versions · ${compact(m["rl.staleness.max"])} at most`],
    ["Generation", compact(m["rl.tokens.generated_per_second"]), "tokens/s"],
    ["Training", compact(perSecond), `tokens/s${computed}`],
    ["Queue", whole(run.tasks_pending), "tasks not taken yet"],
    ["In flight", `${whole(run.groups_in_flight)}`, `groups, of ${whole(run.groups_budget)} allowed`],
    ["Versions", trained, `trained · ${serving} serving`],
  ];
  byId("numbers").replaceChildren(
    ...tiles.map(([name, value, note]) => {
      const tile = element("div", "tile");
      tile.dataset.name = name;
      tile.append(element("div", "tile-name", name), element("div", "tile-value", value), element("div", "tile-note", note));
      return tile;
    }),
  );
}

function showAccounting(counts) {
  const admitted = Number(counts.admitted ?? 0);
  const parts = FATES.map(([key, name]) => [key, name, Number(counts[key] ?? 0)]);
  const total = parts.reduce((sum, [, , n]) => sum + n, 0);
  byId("stack").replaceChildren(
    ...parts.filter(([, , n]) => n > 0).map(([key, name, n]) => {
      const part = element("div", `part ${key}`);
      part.style.flexGrow = String(n);
      part.title = `${name}: ${whole(n)}`;
      return part;
    }),
  );
  const terms = [element("span", "term", `${whole(admitted)} admitted`)];
  parts.forEach(([key, name, n], i) => {
    terms.push(element("span", "operator", i ? "+" : "="));
    const term = element("span", "term");
    term.append(element("i", `dot ${key}`), `${whole(n)} ${name}`);
    terms.push(term);
  });
  byId("equation").replaceChildren(...terms);
  byId("sum").textContent = total === admitted ? "adds up" : `does not add up: ${whole(total)} of ${whole(admitted)}`;
  byId("sum").className = total === admitted ? "sum good" : "sum bad";
}
