"""Features: a module a subject, named as its view; pure functions of canonical frames whose rows say when they were known."""
