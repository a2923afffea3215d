"""The lab: train, evaluate, compare and report. Installed by the extra `lab`; the library never imports it."""
