"""Benchmarks: every figure of speed, memory and accuracy in the README and the docs comes from here."""
