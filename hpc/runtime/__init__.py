"""Inside a job: the attempt, ranks and where they meet, stopping, heartbeats, what follows a failure."""
