// One sample, whole: what became of it, its reward by part, and its turns with what drew them.
import { byId, COLOURS, compact, element, enumName } from "./format.js";

byId("sample-close").addEventListener("click", () => byId("sample").close());

export async function openSample(group, index) {
  byId("sample-name").textContent = `${group}/${index}`;
  byId("sample-facts").tBodies[0].replaceChildren(fact("", "asking…"));
  byId("sample-turns").replaceChildren();
  if (!byId("sample").open) byId("sample").showModal();
  try {
    const response = await fetch(`/samples/${encodeURIComponent(group)}/${index}`);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error ?? response.statusText);
    show(answer.sample, answer.lineage);
  } catch (error) {
    byId("sample-facts").tBodies[0].replaceChildren(fact("cannot be shown", error.message));
  }
}

function show(sample, lineage) {
  const outcome = sample.outcome ?? {};
  const failure = outcome.failure ? ` · ${enumName(outcome.failure, "FAILURE_").toLowerCase()}` : "";
  const step = lineage.step === undefined ? "" : ` in step ${lineage.step}`;
  const facts = [
    ["what became of it", `${lineage.fate}${step}${lineage.detail ? `: ${lineage.detail}` : ""}`],
    ["how it ended", `${enumName(outcome.status, "STATUS_")}${failure}${outcome.detail ? `: ${outcome.detail}` : ""}`],
    ["reward", sample.reward === undefined ? "none" : compact(sample.reward)],
    ...(sample.components ?? []).map((part) => [`  ${part.name}`, compact(part.value ?? 0)]),
    ["earned by its contexts", (sample.branch_rewards ?? []).map(compact).join(", ")],
    ["versions", `${sample.oldest_step ?? 0} to ${sample.newest_step ?? 0}`],
    ["ended", sample.ended_at ?? ""],
    ["trace", sample.traceparent ?? ""],
  ];
  byId("sample-facts").tBodies[0].replaceChildren(...facts.filter(([, text]) => text).map(([name, text]) => fact(name, text)));
  const branches = (sample.branches ?? []).flatMap((told, i) => branch(told, i, sample.branch_rewards?.[i + 1]));
  byId("sample-turns").replaceChildren(...(sample.turns ?? []).map(turn), ...branches, ...drawn(sample.pieces ?? []));
}

function fact(name, text) {
  const row = element("tr");
  row.append(element("th", "", name), element("td", "", text));
  return row;
}

function turn(told) {
  const made = element("section", told.drawn ? "turn drawn" : "turn");
  const by = told.drawn ? `drawn · ${told.tokens} tokens · mean log-probability ${compact(told.mean_logprob ?? 0)}` : `given · ${told.tokens} tokens`;
  made.append(element("h3", "", by), element("pre", "text", told.text ?? ""));
  return made;
}

// A further context of the sample: where its agent edited its history, say, or had another agent.
function branch(told, number, earned) {
  const by = earned === undefined ? "" : ` · earned ${compact(earned)}`;
  return [element("h3", "branch", `branch ${number + 1}${by}`), ...(told.turns ?? []).map(turn)];
}

// By version, where more than one drew it.
function drawn(pieces) {
  if (pieces.length < 2) return [];
  const made = element("section", "turn");
  made.append(element("h3", "", "by version"));
  const text = element("pre", "text");
  for (const piece of pieces) {
    const span = element("span", `version c${Number(piece.step ?? 0) % COLOURS}`, piece.text ?? "");
    span.title = `version ${piece.step ?? 0}, mean log-probability ${compact(piece.mean_logprob ?? 0)}`;
    text.append(span);
  }
  made.append(text);
  return [made];
}
