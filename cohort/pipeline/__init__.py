"""From a catalog and a recipe to derivatives, measurements and a manifest."""
