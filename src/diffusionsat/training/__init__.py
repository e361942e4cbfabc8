"""How the networks learn: objectives, optimisers, the loop and its checkpoints."""
