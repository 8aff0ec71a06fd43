"""Work handed to workers: a bounded number in flight, each scan in a process of its own, an end that loses nothing."""
