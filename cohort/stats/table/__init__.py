"""Cells of a table: which rows are used, results as plain values, correlation of two columns."""
