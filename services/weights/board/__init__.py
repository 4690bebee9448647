"""Weights & Biases as a sink of events, for those who want it.

It follows the history under a place of its own, in the leader of the weights service: leases, places and a way to the
internet are there already, and one instance is enough. The library itself runs in a process of its own, so that it may
hang, grow or die: that process is killed then, and another goes on from the last place kept. What wandb was told before
may be told again; exactly once is not promised. Trimming never waits for it.
"""
