"""Lookalike's serving side: the TorchServe handler, its archive, its server and its client."""
