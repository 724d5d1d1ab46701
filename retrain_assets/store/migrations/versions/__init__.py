"""One file for each released schema; each is frozen once released."""
