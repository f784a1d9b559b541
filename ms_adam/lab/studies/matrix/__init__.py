"""Proof: the cases that every backend must pass, and how far a result may be from the reference."""
