"""Parts of the screen: balance, ratios, and its warnings in sentences."""
