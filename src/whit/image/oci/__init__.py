"""Documents of the OCI image specification, and the directory and archives that they lie in."""
