"""One golden suite for Feast stores: hand-written and generated cases, run on any offline or online store."""
