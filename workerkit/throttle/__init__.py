"""Throttling: limits and the waitlist put together."""
