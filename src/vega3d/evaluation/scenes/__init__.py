"""Benchmarks of scene understanding: their files, scans and proposals, answerers without a model, and metrics."""
