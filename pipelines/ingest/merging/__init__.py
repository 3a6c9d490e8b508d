"""What each source said, kept, and merged into one lake."""
