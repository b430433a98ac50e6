"""What makes it a benchmark: plan cells, run each in a process of its own, keep records, draw tables."""
