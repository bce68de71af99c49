"""Looking into networks: what they compute, and how well."""
