"""Questions about a room whose answers are computed from its geometry."""
