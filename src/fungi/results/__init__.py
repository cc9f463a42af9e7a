"""Results: what decides a number, where it is kept, whether it is there already, and the published ones beside it."""
