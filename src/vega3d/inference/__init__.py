"""Asking a loaded model: a session encodes a clip once, and is then asked about it as often as one likes."""
