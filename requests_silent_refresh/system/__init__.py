"""Access to the operating system: files, locks, forks, threads and connections."""
