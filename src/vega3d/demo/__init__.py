"""The demo: a page with two answers to one question about a video, with the world simulator and without."""
