"""Many real processes that share one file: started, killed and observed."""
