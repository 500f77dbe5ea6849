// The table of latest samples. A completion is shown in the pieces its versions drew, each in its version's colour.
import { byId, COLOURS, compact, element, enumName } from "./format.js";
import { openSample } from "./sample.js";

let drawn = ""; // what is shown: rows that stay the same stay in place, under a cursor and a selection

export function showSamples(samples) {
  const key = JSON.stringify(samples);
  if (key === drawn) return;
  drawn = key;
  byId("no-samples").hidden = samples.length > 0;
  byId("samples").tBodies[0].replaceChildren(...samples.map(row));
  const versions = new Set(samples.flatMap((s) => (s.pieces ?? []).map((p) => Number(p.step ?? 0))));
  byId("legend").replaceChildren(
    ...[...versions].sort((a, b) => a - b).map((v) => element("span", `version c${v % COLOURS}`, `v${v}`)),
  );
}

function row(sample) {
  const made = element("tr");
  const status = enumName(sample.outcome?.status, "STATUS_");
  made.className = status.toLowerCase();
  made.append(identity(sample), reward(sample, status), element("td", "text prompt", sample.prompt ?? ""), completion(sample, status));
  return made;
}

function identity(sample) {
  const cell = element("td", "identity");
  const opens = element("button", "link", `${sample.group}/${sample.index ?? 0}`);
  opens.type = "button";
  opens.addEventListener("click", () => openSample(sample.group, sample.index ?? 0));
  cell.append(opens);
  if (sample.kind === "TASK_KIND_EVAL") cell.append(element("span", "tag", "evaluation"));
  return cell;
}

function reward(sample, status) {
  const cell = element("td", "reward");
  if (sample.reward === undefined) {
    cell.append(element("span", "none", "none"));
    return cell;
  }
  cell.append(element("span", "value", compact(sample.reward)));
  if (status === "TRUNCATED") cell.append(element("span", "tag warn", "truncated"));
  return cell;
}

function completion(sample, status) {
  const cell = element("td", "text completion");
  if (status === "FAILED") {
    const failure = enumName(sample.outcome.failure, "FAILURE_").toLowerCase();
    cell.append(element("span", "tag bad", `FAILED · ${failure}`), element("span", "detail", sample.outcome.detail ?? ""));
    return cell;
  }
  const pieces = sample.pieces ?? [];
  if (!pieces.length) cell.append(element("span", "piece", sample.completion ?? ""));
  for (const piece of pieces) {
    const step = Number(piece.step ?? 0);
    const span = element("span", `piece version c${step % COLOURS}`, piece.text ?? "");
    span.title = `version ${step}, mean log-probability ${compact(piece.mean_logprob ?? 0)}`;
    cell.append(span);
  }
  return cell;
}
