"""Area: parts are linked into OCI images, kept in an OCI layout, and unpacked into layers."""
