"""What studies train on: data, networks, batches."""
