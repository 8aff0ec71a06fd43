"""The kinds of cluster, what a worker has to be there, and drivers that outlive their terminal."""
