"""Speed traces: lap against average lap speed as 800x600 pictures, and the store that keeps them honest in time."""
