"""Adds a message type to Penstock by entry points alone."""
