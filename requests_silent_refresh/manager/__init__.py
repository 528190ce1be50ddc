"""One refresh for all who need it: the queue, the worker, and what is known of the session.

Follow a refresh in this order: ``manager.py`` (what adapters and users call),
``refresh_queue.py`` and ``batch.py`` (who waits, who leads), ``worker.py`` (the thread),
``refresher.py`` (lock, reload, exchange, save, publish), ``stored_session.py``
(what is stored and what is published), ``sign_in_again.py`` (where the session has ended).
"""
