"""Model files: flat, and free of the rest of the package, because the Hub copies them as remote code."""
