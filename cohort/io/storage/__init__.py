"""The files of a store, in a folder or a bucket: written whole or not at all, under a lock, with their digests."""
