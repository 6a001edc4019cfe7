"""What lies on a disk that boots, byte by byte: its partitions, its versions, and how the next one is written."""
