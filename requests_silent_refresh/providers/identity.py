"""Providers of identities, and places where code is kept."""

from __future__ import annotations

import math

from .provider import DAY, HOUR, MONTH, Provider, Reply

GOOGLE = Provider(
    "Google",
    "https://oauth2.googleapis.com/token",
    "https://accounts.google.com/o/oauth2/v2/auth",
    client_auth="post",
    parameters={"access_type": "offline", "prompt": "consent"},
    rotates=False,
    idle_lifetime=6 * MONTH,
    access_token_lifetime=HOUR,
    quirks=(
        "A refresh token comes only with access_type=offline, and after the first consent only "
        "with prompt=consent.",
        "Refresh tokens of a project whose publishing status is Testing end after 7 days.",
        "There is a limit of refresh tokens for each user and client; beyond it the oldest ones "
        "stop working without a warning.",
    ),
    pages={
        "https://developers.google.com/identity/protocols/oauth2/web-server": (
            "token_endpoint authorization_endpoint client_auth parameters "
            "access_token_lifetime quirks"
        ),
        "https://developers.google.com/identity/protocols/oauth2": "rotates idle_lifetime quirks",
    },
)

MICROSOFT_ENTRA = Provider(
    "Microsoft Entra ID",
    "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
    "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
    defaults={"tenant": "organizations"},
    client_auth="post",
    scope=("offline_access",),
    refused=(
        Reply(400, {"error": "interaction_required"}),
        Reply(400, {"error": "consent_required"}),
    ),
    rotates=False,
    idle_lifetime=90 * DAY,
    access_token_lifetime=3599.0,
    quirks=(
        "Each refresh brings a new refresh token; the old one is not revoked.",
        "Refresh tokens of a redirect URI that is registered as spa end after 24 hours, however "
        "often they are refreshed.",
        "The tenant is common, organizations, consumers or the identifier of a tenant.",
        "Error numbers (AADSTS...) may change; programs must not depend on them.",
    ),
    pages={
        "https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow": (
            "token_endpoint authorization_endpoint client_auth scope refused rotates "
            "access_token_lifetime quirks"
        ),
        "https://learn.microsoft.com/en-us/entra/identity-platform/refresh-tokens": (
            "rotates idle_lifetime quirks"
        ),
        "https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes": "quirks",
    },
)

OKTA = Provider(
    "Okta",
    "https://{domain}/oauth2/{server}/v1/token",
    "https://{domain}/oauth2/{server}/v1/authorize",
    defaults={"server": "default"},
    client_auth="basic",
    scope=("offline_access",),
    rotates="optional",
    grace=30.0,
    idle_lifetime=7 * DAY,
    absolute_lifetime=math.inf,
    access_token_lifetime=HOUR,
    quirks=(
        "Rotation is the default for single-page applications only.",
        "The reuse of a spent refresh token revokes the newest one, and all access tokens since "
        "the sign-in.",
        "The lifetimes are those of a custom authorization server; on the org authorization "
        "server a refresh token lives for 90 days.",
    ),
    pages={
        "https://developer.okta.com/docs/guides/refresh-tokens/main/": (
            "token_endpoint authorization_endpoint client_auth scope rotates grace idle_lifetime "
            "absolute_lifetime access_token_lifetime quirks"
        ),
        "https://support.okta.com/help/s/article/refresh-token-expiration-behavior": "quirks",
    },
)

AUTH0 = Provider(
    "Auth0",
    "https://{domain}/oauth/token",
    "https://{domain}/authorize",
    revocation_endpoint="https://{domain}/oauth/revoke",
    client_auth="post",
    scope=("offline_access",),
    rotates="optional",
    quirks=(
        "A dead refresh token is answered with 403 and invalid_grant.",
        "The API must allow offline access in its settings.",
        "With rotation, only the token that was spent last is accepted during the reuse interval.",
        "There is a limit of refresh tokens for each user and application; beyond it the oldest "
        "ones end.",
        "The sign-in names the API with the parameter audience=....",
    ),
    pages={
        "https://auth0.com/docs/secure/tokens/refresh-tokens/revoke-refresh-tokens": (
            "revocation_endpoint"
        ),
        "https://auth0.com/docs/secure/tokens/refresh-tokens/configure-refresh-token-rotation": (
            "rotates quirks"
        ),
        "https://auth0.com/docs/secure/tokens/refresh-tokens/get-refresh-tokens": (
            "token_endpoint authorization_endpoint client_auth scope quirks"
        ),
        "https://support.auth0.com/center/s/article/troubleshoot-refresh-token-unknown-or-invalid"
        "-before-expiry-403-unknown-or-invalid-refresh-token": "quirks",
    },
)

KEYCLOAK = Provider(
    "Keycloak",
    "https://{host}/realms/{realm}/protocol/openid-connect/token",
    "https://{host}/realms/{realm}/protocol/openid-connect/auth",
    scope=("offline_access",),
    rotates="optional",
    idle_lifetime=30 * DAY,
    absolute_lifetime=math.inf,
    quirks=(
        "The lifetimes are those of offline sessions. Without the scope offline_access a session "
        "ends with SSO Session Idle and SSO Session Max, which are far shorter.",
        "Each refresh brings a new refresh token. The old one is revoked only if the realm "
        "enables Revoke Refresh Token.",
        "With Offline Session Max Limited, offline sessions end after 60 days.",
    ),
    pages={
        "https://www.keycloak.org/docs/latest/server_admin/#_offline-access": (
            "scope rotates idle_lifetime absolute_lifetime quirks"
        ),
        "https://www.keycloak.org/docs/latest/server_admin/#_timeouts": "rotates quirks",
        "https://www.keycloak.org/securing-apps/oidc-layers": (
            "token_endpoint authorization_endpoint"
        ),
    },
)

COGNITO = Provider(
    "Amazon Cognito",
    "https://{domain}/oauth2/token",
    "https://{domain}/oauth2/authorize",
    client_auth="basic",
    rotates="optional",
    absolute_lifetime=30 * DAY,
    access_token_lifetime=HOUR,
    quirks=(
        "The domain is that of the user pool, such as example.auth.us-east-1.amazoncognito.com.",
        "Without rotation the answer to a refresh has no refresh token.",
        "With rotation the spent token may be accepted for up to 60 more seconds, as configured.",
    ),
    pages={
        "https://docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html": (
            "token_endpoint authorization_endpoint client_auth access_token_lifetime quirks"
        ),
        "https://docs.aws.amazon.com/cognito/latest/developerguide/"
        "amazon-cognito-user-pools-using-the-refresh-token.html": (
            "rotates absolute_lifetime quirks"
        ),
    },
)

GITHUB_APP = Provider(
    "GitHub Apps",
    "https://github.com/login/oauth/access_token",
    "https://github.com/login/oauth/authorize",
    "https://github.com/login/device/code",
    client_auth="post",
    refused=(Reply(200, {"error": "bad_refresh_token"}),),
    rotates=True,
    idle_lifetime=6 * MONTH,
    access_token_lifetime=8 * HOUR,
    rotation_ends_access_token=True,
    quirks=(
        "Only GitHub Apps with expiring user access tokens have refresh tokens; OAuth apps have "
        "none.",
        "Errors come with the status 200.",
        "A token from the device flow is refreshed without the client's secret.",
    ),
    pages={
        "https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/"
        "refreshing-user-access-tokens": (
            "token_endpoint client_auth rotates idle_lifetime access_token_lifetime "
            "rotation_ends_access_token quirks"
        ),
        "https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/"
        "generating-a-user-access-token-for-a-github-app": "device_authorization_endpoint",
        "https://raw.githubusercontent.com/tickpick/react-native-app-auth/HEAD/docs/"
        "config-examples/github.md": "authorization_endpoint",
        "https://www.nango.dev/blog/github-app-oauth-refresh-token-bad-refresh-token": ("refused"),
    },
)

GITLAB = Provider(
    "GitLab",
    "https://{host}/oauth/token",
    "https://{host}/oauth/authorize",
    "https://{host}/oauth/authorize_device",
    "https://{host}/oauth/revoke",
    defaults={"host": "gitlab.com"},
    client_auth="post",
    rotates=True,
    grace=0.0,
    access_token_lifetime=2 * HOUR,
    rotation_ends_access_token=True,
    quirks=(
        "The documented refresh request repeats the redirect_uri of the sign-in: give it as "
        "extra={'redirect_uri': ...} if the server asks for it.",
    ),
    pages={
        "https://docs.gitlab.com/api/oauth2/": (
            "token_endpoint authorization_endpoint device_authorization_endpoint "
            "revocation_endpoint client_auth rotates access_token_lifetime "
            "rotation_ends_access_token quirks"
        ),
        "https://gitlab.com/gitlab-org/gitlab/-/issues/372358": "grace",
    },
)
