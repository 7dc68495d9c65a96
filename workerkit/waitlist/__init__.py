"""Where throttled tasks are parked until their turn. Pure: builds Calls and Flows, does no I/O."""
