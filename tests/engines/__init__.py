"""Real engines for the tests: each is started on a free port, in its own directory."""
