"""What do the hand-written modes share? A plan of calls, and memory on cache lines."""
