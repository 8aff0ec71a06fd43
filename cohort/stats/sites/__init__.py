"""Parts of the harmonisation: shifts of sites, what forbids them, and the table of a model without them."""
