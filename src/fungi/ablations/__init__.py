"""The ablations of the paper: extract the variations, score them by kNN, print the table."""
