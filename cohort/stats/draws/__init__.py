"""Parts of imputation: chained draws, and pooling of their fits."""
