"""Free slots and waiting jobs are paired, whichever of the two came first."""
