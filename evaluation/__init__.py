"""Metrics: one file each; numpy and run-length masks in, numbers out."""
