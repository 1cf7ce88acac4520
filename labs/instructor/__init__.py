"""For who teaches the course; see README.md."""
