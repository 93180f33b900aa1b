"""Demonstrations of robots: read, written, counted, and cut into windows of actions."""
