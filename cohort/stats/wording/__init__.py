"""Numbers as sentences and as lines for a terminal."""
