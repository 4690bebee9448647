"""Running the whole mesh on one machine: every process started, watched, restarted, and stopped without a trace."""
