"""Logins that every engine rejects in its own words, told alike."""

from __future__ import annotations

import pytest
from engines.fleet import KEY

from requests_silent_refresh import RedisStore, SQLStore, StoreError, StoreUnavailable
from requests_silent_refresh.stores.sql_table import says_login_rejected


@pytest.mark.parametrize("name", ["redis_server", "postgres", "mariadb"])
def test_a_rejected_login_is_not_an_outage(request, name):
    """It would be rejected again, so waiting does not help. The password is not shown."""
    url = request.getfixturevalue(name).url
    url = url.replace("redis://", "redis://nobody:canary-password@").replace(
        "app@", "nobody:canary-password@"
    )
    store = (RedisStore if name == "redis_server" else SQLStore)(url, "nightly", key=KEY)
    for use in (store.load, lambda: store.exclusive(10.0)):
        with pytest.raises(StoreError, match="rejected the login") as rejected:
            use()
        assert not isinstance(rejected.value, StoreUnavailable)
        assert "canary-password" not in f"{rejected.value} {store!r} {vars(store)!r}"
    store.close()


class DriverError(Exception):
    """An error of a driver."""

    sqlstate = None


class CodedError(DriverError):
    """One with a code."""

    def __init__(self, sqlstate):
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "rejected"),
    [
        (CodedError("28P01"), True),
        (CodedError("28000"), True),
        (CodedError("3D000"), True),
        (CodedError("57P03"), False),  # the database is starting up
        (CodedError("53300"), False),  # too many connections
        (DriverError('failed: FATAL:  password authentication failed for user "app"'), True),
        (DriverError('failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1"'), True),
        (DriverError('failed: FATAL:  database "tokens" does not exist'), True),
        (DriverError('failed: FATAL:  role "app" is not permitted to log in'), True),
        (DriverError("failed: fe_sendauth: no password supplied"), True),
        (DriverError("failed: FATAL:  the database system is starting up"), False),
        (DriverError("failed: Connection refused"), False),
        (DriverError(), False),
        (DriverError(1045, "Access denied"), True),
        (DriverError(1040, "Too many connections"), False),
        (DriverError(2003, "Can't connect: password authentication failed"), False),
    ],
)
def test_the_words_of_a_rejected_login(error, rejected):
    """A database that is starting or full may accept the login later."""
    assert says_login_rejected(error) is rejected
