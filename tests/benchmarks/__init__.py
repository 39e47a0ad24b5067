"""Benchmarks: `python -m tests.benchmarks [NAME...]` prints tables and writes build/bench/NAME.json.

Figures are for people to compare within one run on one machine; no test asserts them.
"""
