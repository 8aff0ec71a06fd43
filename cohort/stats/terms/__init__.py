"""Parts of a formula: what may stand in it, and the columns that compare a group."""
