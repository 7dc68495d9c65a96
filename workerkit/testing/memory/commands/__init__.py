"""The commands, by family: those that workerkit uses, and what its tests look around with."""

from __future__ import annotations

from workerkit.testing.memory.commands import hashes, keys, lists, scripting, server, sorted_sets, streams, strings

FAMILIES = (strings, keys, hashes, lists, sorted_sets, streams, scripting, server)  # each enters its commands
