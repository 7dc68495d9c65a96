"""The public objects: settings, WorkerKit, and one file per handle."""
