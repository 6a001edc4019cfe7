"""The way to the agent: how it is found and started, and the calls of its REST interface."""
