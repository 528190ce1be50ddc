"""One refresh for all threads that need it: the queue, the worker, and the session.

Follow a refresh in this order: ``manager.py`` (what adapters and users call),
``refresh_queue.py`` and ``batch.py`` (who leads, who waits), ``worker.py`` (the thread),
``refresher.py`` (lock, reload, exchange, save, publish), ``stored_session.py`` (what is
stored and what is published), ``unsaved_token.py`` (a save that failed), and
``sign_in_again.py`` (a session that has ended).
"""
