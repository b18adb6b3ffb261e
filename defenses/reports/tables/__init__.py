"""A user's runs in the shape of the AWP paper's tables, the published values beside them."""
