"""Store: the images of a node, and what is kept beside them: unpacked layers, leases; what goes out, what goes away."""
