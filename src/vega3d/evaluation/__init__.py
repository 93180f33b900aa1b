"""Benchmarks of spatial questions: VSI-Bench's protocol, intervals over scenes, comparisons, baselines."""
