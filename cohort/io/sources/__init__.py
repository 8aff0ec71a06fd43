"""Where scans come from: folders, archives and buckets, the index of their files, and the series found in them."""
