"""One module a subject: what the features are, for whom, from where, how fresh, in what unit."""
