"""pytest-celery without Docker: its brokers, backends and workers as processes of this machine.

`pytest_plugins = ["workerkit.testing.nodes"]` in the topmost conftest.py brings them in; `celery_setup` and all that
belongs to it stay as pytest-celery documents them. With WORKERKIT_NODES=docker in the environment the same tests run
in containers.
"""

from __future__ import annotations

import os

# pytest-celery has a `celery_worker` of its own, in place of Celery's, which runs a worker in a thread of the test.
from celery.contrib.pytest import celery_worker as celery_embedded_worker

from workerkit.errors import DefinitionError

NODES = {"process": ["workerkit.testing.nodes.processes"], "docker": []}
_wanted = os.environ.get("WORKERKIT_NODES") or "process"
if _wanted not in NODES:
    raise DefinitionError(f"WORKERKIT_NODES={_wanted!r}: write process (the default) or docker")

pytest_plugins = ["workerkit.testing.nodes.project", *NODES[_wanted]]
__all__ = ["celery_embedded_worker"]
