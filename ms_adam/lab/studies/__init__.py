"""One module or folder for each study: what it runs and what it claims."""
