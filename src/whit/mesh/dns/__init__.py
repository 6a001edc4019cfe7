"""Names: the resolver, what it answers, and names of the DNS in policy."""
