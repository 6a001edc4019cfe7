"""Area: identities, addresses, policy, services, names, flows and explanations."""
