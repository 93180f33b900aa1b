"""The study that makes and tests the embedded model `vega3d-tiny`: its world simulator, its arms, its tables."""
