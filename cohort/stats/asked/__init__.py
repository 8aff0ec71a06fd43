"""Parts of a catalog's model: its table, what stands beside its fit, checks of the whole table."""
