"""How validators and miners speak: signed requests, the shapes of each protocol, statuses."""
