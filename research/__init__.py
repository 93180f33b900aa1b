"""Studies that use vega3d and are no part of it: not in the wheel, and nothing in the library imports them."""
