"""A network on one machine: an embedded chain and miners good and bad."""
