"""What the generator's features know of the scene: multi-view correspondence, linear probes, sweeps over both."""
