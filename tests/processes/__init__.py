"""Many real processes on one file: started, killed and watched."""
