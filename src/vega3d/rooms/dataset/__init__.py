"""Data sets of rooms: made by several processes, read, stored, and streamed."""
