"""Job records: typed, fenced, resumable. Pure: builds Calls and Flows, does no I/O."""
