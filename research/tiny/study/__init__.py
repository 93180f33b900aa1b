"""The controlled experiment: one small model, several generators, paired seeds, everything else equal."""
