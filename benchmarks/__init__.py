"""Benchmarks: every figure of the README and the docs comes from a command of this package."""
