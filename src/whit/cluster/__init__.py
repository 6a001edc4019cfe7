"""Area: the state store and, later, the nodes that share it."""
