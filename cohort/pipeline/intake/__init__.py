"""Series on their way into the store: which take part, how one is read, what becomes of it, the tables of all."""
