"""Trains the embedded model of the toy world, and its judges, from nothing."""
