"""The pages people look at: what they show, and how it is drawn."""
