"""The matrix of nodes and faults: what fails, where, and what is promised of it. Its tests are in tests/faults."""
