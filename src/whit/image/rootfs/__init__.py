"""What a root file system is made of: a tree of files, what it is written as, and how a layer becomes one again."""
