"""Pretraining entity tokens on hyperlinked text: masked words and masked entities."""
