"""Files, messages, meetings and tickets."""

from __future__ import annotations

from .provider import DAY, HOUR, MINUTE, YEAR, Provider, Reply

ATLASSIAN = Provider(
    "Atlassian",
    "https://auth.atlassian.com/oauth/token",
    "https://auth.atlassian.com/authorize",
    client_auth="post",
    scope=("offline_access",),
    parameters={"audience": "api.atlassian.com", "prompt": "consent"},
    rotates=True,
    grace=10 * MINUTE,
    idle_lifetime=90 * DAY,
    absolute_lifetime=YEAR,
    access_token_lifetime=HOUR,
    quirks=(
        "A dead refresh token is answered with 403 and invalid_grant.",
        "A change of the user's password ends the session.",
        "Tokens are accepted at api.atlassian.com/ex/..., not at the domain of a site.",
    ),
    pages={
        "https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens/": (
            "token_endpoint client_auth scope rotates quirks"
        ),
        "https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/": (
            "authorization_endpoint parameters"
        ),
        "https://community.developer.atlassian.com/t/refresh-token-expire-after-36000-seconds/"
        "60806/2": "rotates idle_lifetime absolute_lifetime access_token_lifetime",
        "https://community.developer.atlassian.com/t/superseded-31-january-2022-action-required-"
        "deprecating-persistent-refresh-tokens/50348/60": "grace",
        "https://community.developer.atlassian.com/t/"
        "oauth-rotating-tokens-unknown-or-invalid-refresh-token/54555": "quirks",
        "https://mrrefactoring.github.io/confluence.js/guide/oauth2": "quirks",
    },
)

BOX = Provider(
    "Box",
    "https://api.box.com/oauth2/token",
    "https://account.box.com/api/oauth2/authorize",
    revocation_endpoint="https://api.box.com/oauth2/revoke",
    client_auth="post",
    rotates=True,
    idle_lifetime=60 * DAY,
    access_token_lifetime=HOUR,
    pages={
        "https://box.dev/en/guides/authentication/access-tokens/refresh/": (
            "token_endpoint client_auth"
        ),
        "https://developer.box.com/guides/api-calls/permissions-and-errors/expiration/": (
            "rotates idle_lifetime access_token_lifetime"
        ),
        "https://developer.box.com/guides/authentication/access-tokens/revoke": (
            "revocation_endpoint"
        ),
        "https://support.box.com/hc/en-us/profiles/405151491534-Box-User": (
            "authorization_endpoint"
        ),
    },
)

DROPBOX = Provider(
    "Dropbox",
    "https://api.dropboxapi.com/oauth2/token",
    "https://www.dropbox.com/oauth2/authorize",
    client_auth="post",
    parameters={"token_access_type": "offline"},
    rotates=False,
    access_token_lifetime=4 * HOUR,
    pages={
        "https://dropbox.tech/developers/using-oauth-2-0-with-offline-access": (
            "token_endpoint authorization_endpoint client_auth parameters rotates"
        ),
        "https://github.com/remotestorage/remotestorage.js/issues/1267": "access_token_lifetime",
    },
)

SLACK = Provider(
    "Slack",
    "https://slack.com/api/oauth.v2.access",
    "https://slack.com/oauth/v2/authorize",
    client_auth="basic",
    refused=(Reply(200, {"ok": False, "error": "invalid_refresh_token"}),),
    rejected=Reply(200, {"ok": False, "error": "token_expired"}),
    rotates=True,
    access_token_lifetime=12 * HOUR,
    quirks=(
        "An app has refresh tokens only after token rotation was turned on for it.",
        "Errors come with the status 200 and ok=false, at the token endpoint and at the API.",
    ),
    pages={
        "https://docs.slack.dev/authentication/using-token-rotation": (
            "token_endpoint rotates access_token_lifetime quirks"
        ),
        "https://api.slack.com/authentication/oauth-v2": "authorization_endpoint",
        "https://api.slack.com/methods/oauth.access": "client_auth",
        "https://docs.slack.dev/reference/methods/tooling.tokens.rotate": "refused quirks",
        "https://devopsaitoolkit.com/blog/slack-token-rotation-refresh-grant-ops-apps/": "rejected",
    },
)

ZOOM = Provider(
    "Zoom",
    "https://zoom.us/oauth/token",
    "https://zoom.us/oauth/authorize",
    client_auth="basic",
    rotates=True,
    grace=0.0,
    access_token_lifetime=HOUR,
    quirks=("Only the latest refresh token works.",),
    pages={
        "https://devsupport.zoom.us/hc/en-us/articles/"
        "360060332931-Extending-the-expiration-for-an-OAuth-access-token": (
            "token_endpoint client_auth rotates access_token_lifetime quirks"
        ),
        "https://devforum.zoom.us/t/how-to-properly-use-the-access-token/77706": "grace",
        "https://github.com/koshilife/omniauth-zoom/blob/master/lib/omniauth/strategies/zoom.rb": (
            "authorization_endpoint"
        ),
    },
)

ZOOM_SERVER_TO_SERVER = Provider(
    "Zoom server-to-server",
    "https://zoom.us/oauth/token",
    grant_type="account_credentials",
    client_auth="basic",
    extra=("account_id",),
    access_token_lifetime=HOUR,
    quirks=("There is no refresh token: each access token is asked for anew.",),
    pages={
        "https://developers.zoom.us/docs/rooms/oauth/": (
            "token_endpoint client_auth grant_type extra"
        ),
        "https://developers.zoom.us/docs/rooms/s2s-oauth/": "access_token_lifetime quirks",
    },
)
