"""The microVM driver: an instance in a virtual machine, which runs in a container of its own."""
