"""Door: the REST interface of the agent."""
