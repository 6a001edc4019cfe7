"""Sources: where files come from."""
