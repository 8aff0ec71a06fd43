"""What leaves a store in the forms of others; each whole or not at all."""
