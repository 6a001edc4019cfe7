"""Where builds run: processes without rights, each with a directory and a user of its own."""
