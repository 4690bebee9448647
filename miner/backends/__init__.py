"""Where completions come from. Each backend is imported only when it is chosen."""
