"""One number, map or histogram of a whole cohort, gathered scan by scan."""
