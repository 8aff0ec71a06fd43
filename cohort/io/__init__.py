"""Bytes to and from the scan Dataset. Never filters."""
