"""Adapters that turn events into log lines and metrics."""
