"""Between a session and its API: which requests carry a token, and how a rejected one is resent.

``adapter.py`` is the transport adapter. ``boundary.py`` decides which requests carry a
token, ``challenge.py`` reads what a 401 says, ``drain.py`` takes its body off the
connection, and ``resend.py`` makes the request that is sent again.
"""
