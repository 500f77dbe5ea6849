"""Writes dashboard.json, a Grafana dashboard of a run: python3 deploy/monitoring/dashboard.py"""

import json
import pathlib


def _rate(name: str) -> str:
    return f"rate({name}[10m])"


def _quantile(share: float, name: str, by: str = "") -> str:
    return f"histogram_quantile({share}, sum by (le{by}) ({_rate(name)}))"


ROWS = {
    "Run": {
        "Step": ("max(rl_learner_step)", "short"),
        "Samples a second, by how they ended": ("sum by (status) (rate(rl_samples_finished_total[5m]))", "short"),
        "Groups released, by fate": ("sum by (fate) (rate(rl_groups_released_total[10m]))", "short"),
        "Stalled": ("max(rl_run_stalled)", "short"),
        "Samples admitted a second": ("sum(rate(rl_samples_admitted_total[5m]))", "short"),
        "Groups that wait for a worker": ("max(rl_tasks_pending)", "short"),
        "Oldest group in flight": ("max(rl_groups_oldest)", "s"),
        "Groups passed over": ("max(rl_groups_passed_over)", "short"),
        "Log of samples, taken": ("max(rl_log_used)", "percentunit"),
        "Disk of the run, taken": ("max(rl_system_disk)", "percentunit"),
        "Entries set aside": ("sum by (stream) (rl_entries_quarantined_total)", "short"),
    },
    "Generation": {
        "Tokens drawn a second": ("sum by (instance) (rate(rl_tokens_generated_total[5m]))", "short"),
        "Requests in engines": ("sum by (instance) (rl_generation_running)", "short"),
        "Drafted tokens taken": (
            f"{_rate('rl_tokens_drafts_accepted_total')} / {_rate('rl_tokens_drafts_proposed_total')}",
            "percentunit",
        ),
        "Pause of an update, median": (_quantile(0.5, "rl_weights_pause_bucket"), "s"),
        "Reward, 95th percentile": (_quantile(0.95, "rl_reward_duration_bucket", ", reward"), "s"),
        "Samples too large with their routes": ("sum(increase(rl_routes_dropped_total[1h]))", "short"),
        "Agents' sessions": ("sum by (instance) (rl_gateway_sessions)", "short"),
        "Open episodes": ("sum by (environment) (rl_environment_episodes)", "short"),
        "Workers replaced": ("increase(rl_environment_worker_restarts_total[10m])", "short"),
    },
    "Learner and versions": {
        "Seconds a step": (f"{_rate('rl_learner_step_duration_sum')} / {_rate('rl_learner_step_duration_count')}", "s"),
        "Tokens trained a second": ("rate(rl_tokens_trained_total[10m])", "short"),
        "Newest version in the store": ("max(rl_weights_version)", "short"),
        "Bytes pushed a second": (f"sum({_rate('rl_weights_bytes_total')})", "Bps"),
        "Bytes sent a second": (f"sum({_rate('rl_weights_bytes_sent_total')})", "Bps"),
        "Versions made ready": ("sum by (instance) (rate(rl_weights_versions_total[10m]))", "short"),
        "Bytes received a second": (f"sum by (instance) ({_rate('rl_weights_bytes_received_total')})", "Bps"),
        "Differences that proved wrong": ("sum(increase(rl_weights_differences_wrong_total[1h]))", "short"),
        "Bulk tickets refused": ("sum(increase(rl_weights_tickets_refused_total[1h]))", "short"),
        "Relays passed over": ("sum by (why) (increase(rl_weights_relays_passed_over_total[1h]))", "short"),
        "Versions applied": ("sum(rate(rl_weights_applied_total[10m]))", "short"),
        "Checkpoints that failed": ("increase(rl_learner_checkpoint_failures_total[1h])", "short"),
    },
    "Calls": {
        "Refused": ("sum by (method) (rate(rpc_server_calls_refused_total[5m]))", "short"),
        "Without a deadline": ("sum by (method) (rate(rpc_server_calls_without_deadline_total[5m]))", "short"),
        "Failed by surprise": ("sum by (method) (increase(rpc_server_incidents_total[10m]))", "short"),
        "Certificates end in": ("rpc_certificate_ends_at - time()", "s"),
    },
}
WIDTH, HEIGHT, ACROSS = 8, 7, 3


def dashboard() -> dict[str, object]:
    """As Grafana imports it."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, charts in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "id": len(panels)})
        y += 1
        for i, (name, (query, unit)) in enumerate(charts.items()):
            place = {"x": WIDTH * (i % ACROSS), "y": y + HEIGHT * (i // ACROSS), "w": WIDTH, "h": HEIGHT}
            panels.append(
                {
                    "type": "timeseries",
                    "title": name,
                    "id": len(panels),
                    "gridPos": place,
                    "datasource": {"type": "prometheus", "uid": "${source}"},
                    "targets": [{"expr": query, "refId": "A"}],
                    "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                }
            )
        y += HEIGHT * -(-len(charts) // ACROSS)
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "Penstock",
        "uid": "penstock-run",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source]},
        "panels": panels,
    }


if __name__ == "__main__":
    (pathlib.Path(__file__).parent / "dashboard.json").write_text(json.dumps(dashboard(), indent=1) + "\n")
