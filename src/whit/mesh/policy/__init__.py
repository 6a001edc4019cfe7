"""Policy: from what people write to the entries of the kernel's maps, and what they mean."""
