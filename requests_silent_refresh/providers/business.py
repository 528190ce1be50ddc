"""Accounting, customer relations and data: services that companies buy."""

from __future__ import annotations

from .provider import DAY, HOUR, MINUTE, YEAR, Provider, Reply

SALESFORCE = Provider(
    "Salesforce",
    "https://{host}/services/oauth2/token",
    "https://{host}/services/oauth2/authorize",
    defaults={"host": "login.salesforce.com"},
    client_auth="post",
    scope=("refresh_token",),
    rejected=Reply(401, {"errorCode": "INVALID_SESSION_ID"}),
    rotates="optional",
    quirks=(
        "The answers do not say how long an access token lives: it lives as long as the session "
        "timeout of the connected app says.",
        "The API is at the instance_url of the answer, not at login.salesforce.com.",
        "Each user can have 5 refresh tokens for a connected app; a sixth sign-in ends the first.",
        "The policy of the app can make a refresh token expire at once, after a time, or never.",
        "For a sandbox give host='test.salesforce.com' or the domain of the organization.",
    ),
    pages={
        "https://help.salesforce.com/s/articleView"
        "?id=xcloud.remoteaccess_oauth_refresh_token_flow.htm": "rotates quirks",
        "https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/"
        "intro_understanding_refresh_token_oauth.htm": "client_auth quirks",
        "https://www.nango.dev/blog/salesforce-oauth-refresh-token-invalid-grant": (
            "token_endpoint quirks"
        ),
        "https://www.useparagon.com/integration-error-solutions/"
        "salesforce-invalid-grant-expired-access-refresh-token": (
            "authorization_endpoint scope quirks"
        ),
        "https://cloudsundial.com/salesforce-identity/refresh": "rejected",
    },
)

HUBSPOT = Provider(
    "HubSpot",
    "https://api.hubapi.com/oauth/v1/token",
    "https://app.hubspot.com/oauth/authorize",
    client_auth="post",
    refused=(Reply(400, {"status": "BAD_REFRESH_TOKEN"}),),
    access_token_lifetime=30 * MINUTE,
    quirks=(
        "HubSpot deprecates version 1 of this API on 16 February 2027: give the endpoint of the "
        "newer version as token_endpoint=... when you migrate.",
        "Access tokens are up to 300 characters long.",
        "A refresh token ends when the app is uninstalled.",
    ),
    pages={
        "https://developers.hubspot.com/docs/api-reference/legacy/authentication/oauth-tokens/v1/"
        "guide": "token_endpoint client_auth quirks",
        "https://developers.hubspot.com/docs/api-reference/auth-oauth-v3/guide": (
            "authorization_endpoint"
        ),
        "https://developers.hubspot.com/docs/methods/oauth2/refresh-access-token": (
            "access_token_lifetime"
        ),
        "https://developers.hubspot.com/docs/api-reference/legacy/authentication/oauth-tokens/v1/"
        "refresh-oauth-token": "quirks",
        "https://nango.dev/blog/hubspot-oauth-bad-refresh-token": "refused quirks",
    },
)

QUICKBOOKS = Provider(
    "QuickBooks",
    "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
    "https://appcenter.intuit.com/connect/oauth2",
    revocation_endpoint="https://developer.api.intuit.com/v2/oauth2/tokens/revoke",
    client_auth="basic",
    idle_lifetime=100 * DAY,
    absolute_lifetime=5 * YEAR,
    access_token_lifetime=HOUR,
    quirks=(
        "Always use the refresh token of the latest answer.",
        "The callback of the sign-in names the company as realmId.",
        "The answers tell the end of the refresh token as x_refresh_token_expires_in.",
    ),
    pages={
        "https://developer.intuit.com/.well-known/openid-sandbox-configuration": (
            "token_endpoint authorization_endpoint revocation_endpoint client_auth"
        ),
        "https://developer.intuit.com/app/developer/qbo/docs/develop/"
        "authentication-and-authorization/faq": "idle_lifetime access_token_lifetime quirks",
        "https://blogs.a.intuit.com/2025/11/12/important-changes-to-refresh-token-policy": (
            "absolute_lifetime"
        ),
        "https://oauth-pythonclient.readthedocs.io/en/latest/user-guide.html": "quirks",
        "https://arcticjs.dev/providers/intuit": "quirks",
    },
)

XERO = Provider(
    "Xero",
    "https://identity.xero.com/connect/token",
    "https://login.xero.com/identity/connect/authorize",
    client_auth="basic",
    scope=("offline_access",),
    rotates=True,
    grace=30 * MINUTE,
    idle_lifetime=60 * DAY,
    access_token_lifetime=30 * MINUTE,
    quirks=("Each API request needs the header Xero-Tenant-Id, or it is answered with 403.",),
    pages={
        "https://developer.xero.com/faq/oauth2": (
            "rotates grace idle_lifetime access_token_lifetime"
        ),
        "https://www.nango.dev/blog/xero-oauth-refresh-token-invalid-grant": (
            "token_endpoint rotates"
        ),
        "https://community.xero.com/developer/discussion/105714701/": "client_auth grace",
        "https://gist.github.com/channeladam/5d4d88d44a9853d00537318a8d2b47fd": (
            "authorization_endpoint scope"
        ),
        "https://mcp.waymark.network/r/ab0ad5ce-3697-484f-90ef-9a95df54f552.json": "quirks",
    },
)

EXACT_ONLINE = Provider(
    "Exact Online",
    "https://{host}/api/oauth2/token",
    "https://{host}/api/oauth2/auth",
    defaults={"host": "start.exactonline.nl"},
    client_auth="post",
    rotates=True,
    idle_lifetime=30 * DAY,
    access_token_lifetime=10 * MINUTE,
    refuses_early=True,
    quirks=("A new access token is issued once every 9.5 minutes at most.",),
    pages={
        "https://sqlkover.com/azure-data-factory-and-the-exact-online-rest-api-fetching-your-"
        "first-refresh-access-tokens": ("rotates idle_lifetime access_token_lifetime"),
        "https://github.com/picqer/exact-php-client/blob/main/src/Picqer/Financials/Exact/"
        "Connection.php": "token_endpoint authorization_endpoint client_auth",
        "https://forums.invantive.com/t/invantive-totp-method-broken-with-exact-online/1570/6": (
            "refuses_early quirks"
        ),
    },
)

DATABRICKS = Provider(
    "Databricks",
    "https://{host}/oidc/v1/token",
    "https://{host}/oidc/v1/authorize",
    client_auth="basic",
    scope=("offline_access",),
    rotates="optional",
    access_token_lifetime=HOUR,
    quirks=(
        "With single-use refresh tokens, a session has an absolute lifetime that the "
        "administrator sets.",
    ),
    pages={
        "https://databrickslabs.github.io/partner-architecture/isv-partners/lakehouse-patterns/"
        "access-auth/oauth-reference": "token_endpoint authorization_endpoint",
        "https://docs.databricks.com/aws/en/integrations/single-use-tokens": (
            "scope rotates access_token_lifetime"
        ),
        "https://databricks.github.io/sdk-js/api/interfaces/"
        "_databricks_sdk-oauth.v1.TokenAccessPolicy.html": "rotates quirks",
        "https://docs.rs/crate/dbx-tools-databricks-auth/0.6.166/source/src/m2m.rs": "client_auth",
    },
)

DATABRICKS_M2M = Provider(
    "Databricks service principals",
    "https://{host}/oidc/v1/token",
    grant_type="client_credentials",
    client_auth="basic",
    access_token_lifetime=HOUR,
    pages={
        "https://databrickslabs.github.io/partner-architecture/isv-partners/lakehouse-patterns/"
        "access-auth/oauth-reference": "token_endpoint",
        "https://docs.databricks.com/aws/en/dev-tools/auth/oauth-m2m": "access_token_lifetime",
        "https://databrickslabs.github.io/partner-architecture/isv-partners/lakehouse-patterns/"
        "access-auth/oauth-m2m": "grant_type",
        "https://docs.rs/crate/dbx-tools-databricks-auth/0.6.166/source/src/m2m.rs": "client_auth",
    },
)

SNOWFLAKE = Provider(
    "Snowflake",
    "https://{account}.snowflakecomputing.com/oauth/token-request",
    "https://{account}.snowflakecomputing.com/oauth/authorize",
    client_auth="basic",
    scope=("refresh_token",),
    rotates="optional",
    idle_lifetime=90 * DAY,
    access_token_lifetime=10 * MINUTE,
    quirks=(
        "With single-use refresh tokens a refresh ends all earlier refresh and access tokens.",
        "The integration must issue refresh tokens (OAUTH_ISSUE_REFRESH_TOKENS).",
    ),
    pages={
        "https://docs.snowflake.com/en/user-guide/single-use-refresh-tokens": (
            "rotates idle_lifetime quirks"
        ),
        "https://docs.snowflake.com/en/sql-reference/sql/create-security-integration-oauth-"
        "snowflake": "quirks",
        "https://onlinehelp.informatica.com/IICS/prod/CAI/en/wwo-snowflake-cortex-ai-connector-"
        "guide/Snowflake_Cortex_AI_connection_authentication_properties.html": (
            "token_endpoint authorization_endpoint scope"
        ),
        "https://snowflakesolutions.net/page/57/?post_type=answer": (
            "client_auth access_token_lifetime"
        ),
    },
)
