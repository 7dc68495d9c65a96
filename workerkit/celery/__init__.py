"""Celery glue: tasks, requests, signals, bootsteps, beat."""
