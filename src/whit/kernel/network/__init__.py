"""What the kernel knows of networks: netlink, links and their addresses, namespaces, frames, and who listens."""
