"""Parts of cluster-robust errors: the sandwich and its degrees of freedom, and the errors that a reader is shown."""
