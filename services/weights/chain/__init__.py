"""What the weights service needs of a chain, and the chain as bittensor's SDK reaches it."""

from services.weights.chain.protocol import ERA_BLOCKS, Chain, Commit, Sent, Standing, Tick

__all__ = ["ERA_BLOCKS", "Chain", "Commit", "Sent", "Standing", "Tick"]
