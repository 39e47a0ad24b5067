"""The plumbing: settings, transports, store, consumer runtime, HTTP API, CLI, pilot program.

Imports `schemas` and nothing else of Penstock; what lies above is found through entry points.
Executors, consumers and triggers call it; people reach it through the CLI and the API.
"""
