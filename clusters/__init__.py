"""Where work runs: how a Ray cluster is found, started and left."""
