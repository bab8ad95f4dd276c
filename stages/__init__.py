"""The two stages and what they share."""
