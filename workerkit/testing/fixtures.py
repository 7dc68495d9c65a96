"""The plugin's fixtures, for runs that load no plugins by themselves (PYTEST_DISABLE_PLUGIN_AUTOLOAD).

`pytest_plugins = ["workerkit.testing.fixtures"]` in the topmost conftest.py brings them in.
"""

from __future__ import annotations

from workerkit.testing.plugin import frozen_clock, workerkit_memory, workerkit_server, workerkit_valkey, zombie_drill

__all__ = ["frozen_clock", "workerkit_memory", "workerkit_server", "workerkit_valkey", "zombie_drill"]
