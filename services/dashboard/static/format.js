// Numbers and small elements. Text always goes through textContent: what a model wrote is never markup.

// Of versions, and of curves in one chart.
export const COLOURS = 8;

export const byId = (id) => document.getElementById(id);

export function element(name, className = "", text = null) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

export function compact(value, digits = 3) {
  if (value === undefined || value === null || Number.isNaN(Number(value))) return "–";
  const number = Number(value);
  const size = Math.abs(number);
  if (size >= 1e6) return `${(number / 1e6).toFixed(size >= 1e7 ? 1 : 2)}M`;
  if (size >= 1e4) return `${(number / 1e3).toFixed(1)}k`;
  if (Number.isInteger(number)) return number.toLocaleString("en");
  if (size >= 100) return Math.round(number).toLocaleString("en");
  if (size >= 10) return number.toFixed(1);
  if (size > 0 && size < 0.001) return number.toExponential(1);
  return number.toFixed(digits);
}

export const whole = (value) => Number(value ?? 0).toLocaleString("en");

export function elapsed(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// "RUN_STATE_RUNNING" -> "RUNNING"
export const enumName = (value, prefix) => (value ?? "").replace(prefix, "");
