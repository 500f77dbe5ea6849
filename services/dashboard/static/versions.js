// The policy versions that are kept, and which receiver holds which, by which path it came.
import { byId, compact, element, enumName } from "./format.js";

const MIB = 1 << 20;
const mib = (bytes) => compact(Number(bytes ?? 0) / MIB);
const seconds = (duration) => (duration ? `${compact(Number.parseFloat(duration))} s` : "");
const same = (a, b) => a && b && a.step === b.step && a.epoch === b.epoch;

function fill(table, rows) {
  byId(table).tBodies[0].replaceChildren(
    ...rows.map((cells) => {
      const row = element("tr");
      row.append(...cells.map((text) => element("td", "", text ?? "")));
      return row;
    }),
  );
}

export function showVersions(answer) {
  const kept = (answer.versions ?? []).filter((v) => v.state !== "VERSION_STATE_RETIRED");
  byId("versions-card").hidden = !kept.length;
  byId("versions-served").textContent = answer.served ? `version ${answer.served.step ?? 0} is served` : "none is served";
  fill(
    "versions",
    kept.map((v) => {
      const state = enumName(v.state, "VERSION_STATE_").toLowerCase();
      const shown = same(v.version, answer.served) ? `${state}, served` : state;
      return [String(v.version?.step ?? 0), shown, mib(v.size), v.difference ? mib(v.difference) : "", v.reason];
    }),
  );
  fill(
    "receivers",
    (answer.receivers ?? []).map((r) => [
      r.name,
      (r.version ? String(r.version.step ?? 0) : "") + (r.canary ? " (canary)" : ""),
      enumName(r.path, "PATH_").toLowerCase() + (r.relay ? `, relay ${r.relay}` : ""),
      r.version ? mib(r.bytes) : "",
      seconds(r.transfer),
      seconds(r.pause),
      r.error,
    ]),
  );
}
