"""Pushing to the Hub: models with cards of measured results, data sets of rooms, and the demo's Space."""
