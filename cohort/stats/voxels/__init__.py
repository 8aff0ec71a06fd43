"""What a model of maps is made of: the question, the pieces of space, arrangements of scans, peaks, running sums."""
