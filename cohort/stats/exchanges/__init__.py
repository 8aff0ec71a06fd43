"""Parts of permutation tests: arrangements, the largest t of each, and the tests of a model."""
