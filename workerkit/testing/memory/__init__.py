"""Redis in this process, for tests: the kit's own scripts run on it, under a real Lua 5.1.

`in_memory(kit)` (workerkit.testing.memory.kit) is what a test needs of it.
"""
