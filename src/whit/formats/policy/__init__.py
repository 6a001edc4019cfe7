"""Policies, of Kubernetes and of app files."""
