"""A module for each study: what its page, pictures or tables show."""
