"""Message brokers behind one port of six methods.

Imports `schemas` and the drivers, which nobody else imports; each broker is an entry point of
`penstock.transports`, by URL scheme. The API, consumers and triggers call it.
"""
