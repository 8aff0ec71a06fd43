"""Figures and the report: one self-contained page that opens offline."""
