"""The residents that answer: what each knows, how it behaves on the wire, and the process they share."""
