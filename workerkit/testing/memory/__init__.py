"""Redis in this process, for tests: the kit's own scripts run on it, under a real Lua 5.1."""
