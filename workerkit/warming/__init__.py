"""Scheduled cache warming: ticks claimed once, refreshes through the cache's own lease."""
