"""Recognition: a video to its class."""
