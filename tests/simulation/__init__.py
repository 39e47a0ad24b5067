"""Pilots and jobs in a discrete-event simulation, in which rules of provisioning compete: `make simulate`."""
