"""The jobs, one file each, and the scene that they return."""
