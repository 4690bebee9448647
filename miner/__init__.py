"""The reference miner: a language model served to validators over signed HTTP, protocol ``coremesh/1``."""
