"""Hands: system calls, netlink, cgroups, mounts and probes. One small function each, errno and path in the error."""
