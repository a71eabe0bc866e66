"""The shared contract: resource schema, names, labels and link formats."""
