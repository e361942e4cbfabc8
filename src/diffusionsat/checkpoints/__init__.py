"""Checkpoints on disk: read strictly, written whole, the shipped ones found by name."""
