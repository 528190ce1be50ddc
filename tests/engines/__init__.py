"""Real engines for the tests: servers started on free ports in directories of their own."""
