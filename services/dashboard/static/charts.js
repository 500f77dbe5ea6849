// The curves of a run, one small chart each, with one cursor over all of them. Drawn anew when the colour scheme changes.
import { COLOURS, compact, element } from "./format.js";

const CHARTS = [
  {
    title: "Reward",
    series: [
      { name: "batch", value: (m) => m["rl.reward.mean"], colour: "--curve-1", faint: true },
      { name: "smoothed", value: (m) => m["rl.reward.mean"], colour: "--curve-1", mean: 10 },
      { name: "eval", evaluation: "reward", colour: "--curve-2" },
    ],
  },
  {
    title: "Loss",
    series: [
      { name: "batch", value: (m) => m["rl.loss"], colour: "--curve-1", faint: true },
      { name: "smoothed", value: (m) => m["rl.loss"], colour: "--curve-1", mean: 10 },
      { name: "held out", evaluation: "loss", colour: "--curve-2" },
    ],
  },
  {
    title: "Staleness",
    unit: "versions",
    zero: true,
    series: [
      { name: "mean", value: (m) => m["rl.staleness.mean"], colour: "--curve-1", fill: true },
      { name: "max", value: (m) => m["rl.staleness.max"], colour: "--curve-3", faint: true },
    ],
  },
  {
    title: "Throughput",
    unit: "tokens/s",
    zero: true,
    series: [
      { name: "generated", value: (m) => perSecond(m, "rl.tokens.generated"), colour: "--curve-1" },
      { name: "trained", value: (m) => perSecond(m, "rl.tokens.trained"), colour: "--curve-3" },
    ],
  },
  {
    title: "Completion length",
    unit: "tokens",
    zero: true,
    series: [
      { name: "mean", value: (m) => m["rl.completion.length.mean"], colour: "--curve-1", fill: true },
      { name: "max", value: (m) => m["rl.completion.length.max"], colour: "--curve-3" },
    ],
  },
  {
    title: "Step time",
    unit: "seconds",
    zero: true,
    series: [
      { name: "whole step", value: (m) => m["rl.step.seconds"], colour: "--curve-3" },
      { name: "training", value: (m) => m["rl.train.seconds"], colour: "--curve-1", fill: true },
    ],
  },
];

// Shown where a run has such numbers.
const MORE = [
  { title: "Entropy", unit: "nats", zero: true, metrics: { policy: "rl.policy.entropy" } },
  { title: "KL", unit: "nats", metrics: { reference: "rl.policy.kl", mismatch: "rl.policy.mismatch_kl" } },
  { title: "Ratio", metrics: { "1 %": "rl.policy.ratio_p01", median: "rl.policy.ratio_p50", "99 %": "rl.policy.ratio_p99" } },
  { title: "Shares", zero: true, metrics: { clipped: "rl.policy.clip_share", masked: "rl.policy.masked_share", truncated: "rl.completion.truncated", "dead groups": "rl.groups.dead" } },
  { title: "Gradient norm", zero: true, metrics: { policy: "rl.policy.grad_norm", critic: "rl.policy.value_grad_norm" } },
  { title: "Learning rate", zero: true, metrics: { policy: "rl.policy.learning_rate", critic: "rl.policy.value_learning_rate" } },
  { title: "Accuracy and margin", metrics: { accuracy: "rl.policy.accuracy", margin: "rl.policy.margin" } },
  { title: "Reward by part", family: "rl.reward.component." },
  { title: "Reward by source", family: "rl.reward.source." },
  { title: "Experts", zero: true, metrics: { entropy: "rl.experts.entropy", "busiest": "rl.experts.largest", dead: "rl.experts.dead" } },
  { title: "Routes", zero: true, metrics: { known: "rl.routes.known", apart: "rl.routes.apart" } },
  { title: "Host", unit: "shares in use", zero: true, metrics: { cores: "rl.system.cpu", memory: "rl.system.memory", disk: "rl.system.disk" } },
  { title: "Failed samples", unit: "share", zero: true, family: "rl.failed." },
];

// The series of a chart of MORE, for what the steps have; none if they have nothing of it.
function found(definition, names) {
  const metrics = definition.family
    ? Object.fromEntries([...names].filter((n) => n.startsWith(definition.family)).sort().map((n) => [n.slice(definition.family.length), n]))
    : Object.fromEntries(Object.entries(definition.metrics).filter(([, name]) => names.has(name)));
  return Object.entries(metrics).slice(0, COLOURS).map(([name, metric], i) => ({ name, value: (m) => m[metric], colour: `--curve-${i + 1}` }));
}

function perSecond(m, name) {
  return m[name] !== undefined && m["rl.step.seconds"] ? m[name] / m["rl.step.seconds"] : undefined;
}

export class Charts {
  constructor(root) {
    this.root = root;
    this.drawn = "";
    this.cards = CHARTS.map((definition) => new Chart(root, definition));
    this.more = new Map(); // title -> {key, card}
    this.names = new Set();
    this.looked = 0;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#all().forEach((c) => c.rebuild()));
  }

  // steps: step -> report; evaluations: reports with step and metrics. Drawn only if one of them grew.
  show(steps, evaluations) {
    this.root.dataset.steps = String(steps.size);
    const key = `${steps.size}/${evaluations.length}`;
    if (key === this.drawn) return;
    this.drawn = key;
    const evaluated = new Map(evaluations.map((e) => [Number(e.step ?? 0), e.metrics ?? {}]));
    const xs = [...new Set([...steps.keys(), ...evaluated.keys()])].sort((a, b) => a - b);
    this.#look(steps);
    for (const card of this.#all()) card.show(xs, steps, evaluated);
  }

  #all() {
    return [...this.cards, ...[...this.more.values()].map((m) => m.card)];
  }

  // Makes the charts of MORE for which the steps have numbers, anew where there are more series than before.
  #look(steps) {
    for (const report of [...steps.values()].slice(this.looked)) Object.keys(report.metrics ?? {}).forEach((n) => this.names.add(n));
    this.looked = steps.size;
    for (const definition of MORE) {
      const series = found(definition, this.names);
      const key = series.map((s) => s.name).join("/");
      const before = this.more.get(definition.title);
      if (!series.length || before?.key === key) continue;
      before?.card.remove();
      this.more.set(definition.title, { key, card: new Chart(this.root, { ...definition, series }) });
    }
  }
}

class Chart {
  constructor(root, definition) {
    this.definition = definition;
    this.data = [[], ...definition.series.map(() => [])];
    const card = (this.card = element("div", "card chart"));
    card.dataset.title = definition.title;
    const head = element("div", "card-head");
    const title = element("h2", "", definition.title);
    if (definition.unit) title.append(element("small", "", definition.unit));
    this.legend = element("div", "readings");
    this.values = definition.series.map((s) => {
      const reading = element("span", "reading");
      const key = element("i", s.faint ? "key faint" : s.evaluation ? "key point" : "key");
      key.style.setProperty("--key", `var(${s.colour})`);
      const value = element("b", "", "–");
      reading.append(key, s.name, value);
      this.legend.append(reading);
      return value;
    });
    head.append(title, this.legend);
    this.plotRoot = element("div", "plot");
    card.append(head, this.plotRoot);
    root.append(card);
    this.rebuild();
    this.observer = new ResizeObserver(() => this.plot.setSize(this.size()));
    this.observer.observe(this.plotRoot);
  }

  remove() {
    this.observer.disconnect();
    this.plot.destroy();
    this.card.remove();
  }

  size() {
    return { width: Math.max(120, this.plotRoot.clientWidth), height: 168 };
  }

  rebuild() {
    this.plot?.destroy();
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    this.plot = new uPlot(
      {
        ...this.size(),
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "run" }, points: { size: 6 }, drag: { x: true, y: false } },
        scales: { x: { time: false }, y: { range: (_, low, high) => this.#range(low, high) } },
        axes: [
          { ...axis, size: 26, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? t : "")) },
          { ...axis, size: 46, values: (_, ticks) => ticks.map((t) => compact(t, 2)) },
        ],
        series: [{}, ...this.definition.series.map((s) => series(s, colour))],
        hooks: { setCursor: [() => this.#read()] },
      },
      this.data,
      this.plotRoot,
    );
  }

  show(xs, steps, evaluated) {
    const columns = this.definition.series.map((s) => {
      if (s.evaluation) return xs.map((x) => number(evaluated.get(x)?.[s.evaluation]));
      const values = xs.map((x) => (steps.has(x) ? number(s.value(steps.get(x).metrics ?? {})) : undefined));
      return s.mean ? trailingMean(values, s.mean) : values;
    });
    this.data = [xs, ...columns];
    this.plot.setData(this.data);
    this.values.forEach((shown, i) => {
      const measured = columns[i].some((v) => v !== undefined && v !== null);
      shown.parentElement.hidden = this.definition.series[i].evaluation !== undefined && !measured;
    });
    this.#read();
  }

  #range(low, high) {
    if (low === null || high === null) return [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.08;
    return [this.definition.zero ? Math.min(0, low) : low - room, high + room];
  }

  // The values under the cursor; without one, the newest.
  #read() {
    const at = this.plot?.cursor.idx;
    this.values.forEach((shown, i) => {
      const column = this.data[i + 1];
      const value = at === null || at === undefined ? column.findLast((v) => v !== undefined && v !== null) : column[at];
      shown.textContent = compact(value);
    });
  }
}

function series(s, colour) {
  const stroke = colour(s.colour);
  if (s.evaluation) {
    return { stroke, width: 1.5, dash: [4, 4], spanGaps: true, points: { show: true, size: 7, fill: stroke, stroke } };
  }
  return {
    stroke: s.faint ? `${stroke}55` : stroke,
    width: s.faint ? 1 : 1.75,
    fill: s.fill ? `${stroke}1c` : undefined,
    spanGaps: true,
    points: { show: false },
  };
}

function number(value) {
  return value === undefined || !Number.isFinite(Number(value)) ? undefined : Number(value);
}

function trailingMean(values, window) {
  const recent = [];
  return values.map((value) => {
    if (value === undefined) return undefined;
    recent.push(value);
    if (recent.length > window) recent.shift();
    return recent.reduce((sum, v) => sum + v, 0) / recent.length;
  });
}
