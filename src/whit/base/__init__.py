"""Base: errors, settings, log and time. Imports nothing else of Whit."""
