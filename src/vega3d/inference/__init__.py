"""Asking a loaded model: encode a clip once, then ask often."""
