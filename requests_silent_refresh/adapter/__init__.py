"""The transport adapter: which requests carry a token, and how a rejected request is sent again.

``adapter.py`` is the transport adapter itself. ``boundary.py`` decides which requests carry
a token, ``challenge.py`` reads a 401's ``WWW-Authenticate`` header, ``drain.py`` reads a 401's
body off the connection, and ``resend.py`` copies and rewinds the request to send it again.
"""
