"""What a person sees of the mesh: flows, edges, metrics, traces, explanations."""
