"""Between a session and its API: which requests carry a token, and how rejected ones are resent."""
