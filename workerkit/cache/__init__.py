"""Memoized results: entries, leases and their scripts. Pure: builds Calls and Flows, does no I/O."""
