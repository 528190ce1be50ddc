"""Music and sports."""

from __future__ import annotations

import math

from .provider import HOUR, MONTH, Provider, Reply

FITBIT = Provider(
    "Fitbit",
    "https://api.fitbit.com/oauth2/token",
    "https://www.fitbit.com/oauth2/authorize",
    client_auth="basic",
    refused=(Reply(400, {"errors": [{"errorType": "invalid_grant"}]}),),
    rotates=True,
    idle_lifetime=math.inf,
    absolute_lifetime=math.inf,
    access_token_lifetime=8 * HOUR,
    quirks=("Errors are a list named errors, with errorType and message.",),
    pages={
        "https://dev.fitbit.com/build/reference/web-api/authorization/refresh-token/": (
            "token_endpoint client_auth"
        ),
        "https://dev.fitbit.com/build/reference/web-api/developer-guide/best-practices": (
            "rotates idle_lifetime absolute_lifetime access_token_lifetime"
        ),
        "https://github.com/requests/requests-oauthlib/blob/master/docs/examples/fitbit.rst": (
            "authorization_endpoint"
        ),
        "https://github.com/aarondcoleman/Fitbit.NET/issues/320": "refused quirks",
    },
)

SPOTIFY = Provider(
    "Spotify",
    "https://accounts.spotify.com/api/token",
    "https://accounts.spotify.com/authorize",
    client_auth="basic",
    absolute_lifetime=6 * MONTH,
    access_token_lifetime=HOUR,
    quirks=(
        "The lifetime of a session counts from the consent; a refresh does not extend it.",
        "If an answer has no refresh token, the old one stays valid.",
    ),
    pages={
        "https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens": (
            "token_endpoint client_auth absolute_lifetime access_token_lifetime quirks"
        ),
        "https://developer.spotify.com/blog/2026-06-18-refresh-token-expiration": (
            "absolute_lifetime quirks"
        ),
        "https://www.educative.io/courses/integrate-the-spotify-api-in-javascript/gk9gAR1PW9D": (
            "authorization_endpoint"
        ),
    },
)

STRAVA = Provider(
    "Strava",
    "https://www.strava.com/oauth/token",
    "https://www.strava.com/oauth/authorize",
    client_auth="post",
    refused=(Reply(400, {"errors": [{"resource": "RefreshToken", "code": "invalid"}]}),),
    rejected=Reply(401, {"errors": [{"field": "access_token", "code": "invalid"}]}),
    rotates=True,
    grace=0.0,
    access_token_lifetime=6 * HOUR,
    refuses_early=False,
    rotation_ends_access_token=False,
    quirks=(
        "A refresh more than an hour before the expiry returns the access token that exists.",
        "Scopes are separated by commas: give them as one scope, 'read,activity:read'.",
    ),
    pages={
        "https://developers.strava.com/docs/authentication/": (
            "token_endpoint authorization_endpoint client_auth rotates grace "
            "access_token_lifetime refuses_early rotation_ends_access_token quirks"
        ),
        "https://communityhub.strava.com/developers-api-7/401-error-for-get-requests-3198": (
            "rejected"
        ),
        "https://github.com/dreeveapp/dreeve/issues/1449": "refused",
    },
)
