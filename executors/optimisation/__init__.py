"""Received jobs go through the chain of optimisers and end up waiting, held, failed or killed."""
