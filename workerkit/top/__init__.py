"""How a whole fleet stands at one moment, for whoever watches: one snapshot, what changed since another, and news."""
