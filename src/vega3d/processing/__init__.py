"""From messages, images and videos to the two pixel streams of the model."""
