"""Distributed limits: one atomic decision a call. Pure: builds Calls and Flows, does no I/O."""
