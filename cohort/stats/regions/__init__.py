"""Parts of many outcomes on one design: the least squares, and the tables of their effects."""
