"""Door: the command line, a client of the REST interface."""
