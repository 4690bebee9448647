"""The gating service: learns whom to ask."""
