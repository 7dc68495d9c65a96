"""The demo: the whole of workerkit at work against a rate-limited HTTP API, on one machine."""
