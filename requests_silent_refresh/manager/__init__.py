"""One refresh for all threads that need it: the queue, the worker, and the session."""
