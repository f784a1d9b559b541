"""Data-parallel training under MindSpore's launcher `msrun`, and what must be true of it."""
