"""Benchmarks: ratios of our code to named baselines, always measured in one run on one machine."""
