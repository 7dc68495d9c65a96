"""The Lua files that scripts include."""
