"""A page for people out of what a run wrote to disk. Nothing here trains or judges."""
