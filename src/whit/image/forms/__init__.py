"""What boots by itself, in the forms that it can take: a microVM, a disk, an ISO image."""
