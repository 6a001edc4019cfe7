"""What an image is made of, and why: needs, parts, packages and files, and what is drawn up from that."""
