"""Documents and layers of the OCI image specification."""
