"""What people see of a run, from its streams: under way, where the coordinator shows it, or over, from its folder."""
