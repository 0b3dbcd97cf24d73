"""What a solution concludes, statement by statement."""
