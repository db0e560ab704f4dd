"""What the project promises in figures, measured beside others in the same run."""
