"""How this package talks to the operating system: files, locks, forks, threads, connections."""
