"""What leaves a store for good: people who withdrew, and what no record needs any more."""
