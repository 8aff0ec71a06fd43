"""Tables to effects. Knows nothing of images."""
