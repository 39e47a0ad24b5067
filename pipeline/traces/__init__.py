"""Traces: what a job went through as spans, from submission to its end, under ids that follow from the job itself.

`ids` says which trace a job has and whether it is among those that are made, `life` makes spans of its events,
`port` is what sends them; `otlp` alone knows OpenTelemetry, and is loaded where PENSTOCK_TRACES_URL is set.
"""
