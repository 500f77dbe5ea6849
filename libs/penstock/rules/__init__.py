"""What is taken from others: the protos' rules, bounds of numbers, and the quarantine of what keeps to neither."""
