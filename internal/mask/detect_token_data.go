package mask

// awsKeyID names the rules of AWS, which tell where a secret access key is.
const awsKeyID = "AWS access key ID"

// from is a part with text and as many bytes as its class has there, from least on.
func from(text string, c class, least int) part { return part{text, c, least, 0} }

// exactly is a part with text and so many bytes of a class.
func exactly(text string, c class, n int) part { return part{text, c, n, n} }

// between is a part with text and least to most bytes of a class.
func between(text string, c class, least, most int) part { return part{text, c, least, most} }

// tokenRules are tokens with a prefix that nothing else has: a match is a secret,
// or was one. Lengths that a provider does not publish are those of gitleaks 8.30
// (MIT, config/gitleaks.toml), or the shortest that was seen, less a few.
//
// Source, of each: the provider's own documentation, as named.
var tokenRules = []tokenRule{
	// AWS, "IAM identifiers", unique ID prefixes; A3T of old S3 keys is left out.
	{awsKeyID, []part{exactly("AKIA", upper, 16)}, false},
	{awsKeyID, []part{exactly("ASIA", upper, 16)}, false},
	{awsKeyID, []part{exactly("ABIA", upper, 16)}, false},
	{awsKeyID, []part{exactly("ACCA", upper, 16)}, false},
	// AWS, "Amazon Bedrock API keys".
	{"AWS Bedrock API key", []part{from("ABSK", base64, 109)}, false},
	// Google Cloud, "Manage API keys"; Google Identity, "OAuth 2.0" (client secrets, access tokens).
	{"Google API key", []part{exactly("AIza", urlSafe, 35)}, false},
	{"Google OAuth client secret", []part{exactly("GOCSPX-", urlSafe, 28)}, false},
	{"Google OAuth access token", []part{from("ya29.", urlSafe, 30)}, false},
	// GitHub Docs, "About authentication to GitHub", token formats.
	{"GitHub token", []part{from("ghp_", alnum, 36)}, false},
	{"GitHub token", []part{from("gho_", alnum, 36)}, false},
	{"GitHub token", []part{from("ghu_", alnum, 36)}, false},
	{"GitHub token", []part{from("ghs_", alnum, 36)}, false},
	{"GitHub token", []part{from("ghr_", alnum, 36)}, false},
	{"GitHub fine-grained token", []part{from("github_pat_", word, 50)}, false},
	// GitLab Docs, "Token overview", token prefixes.
	{"GitLab token", []part{from("glpat-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("gldt-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("glrt-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("glptt-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("glcbt-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("glft-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("glsoat-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("gloas-", urlSafe, 20)}, false},
	{"GitLab token", []part{from("glagent-", urlSafe, 20)}, false},
	// Atlassian Support, "Manage API tokens"; Bitbucket Cloud, "App passwords".
	{"Atlassian API token", []part{from("ATATT3", padded, 100)}, false},
	{"Bitbucket token", []part{from("ATCTT3", padded, 100)}, false},
	{"Bitbucket app password", []part{between("ATBB", alnum, 24, 32)}, false},
	// Slack API, "Token types".
	{"Slack token", []part{exactly("xox", alnum, 1), from("-", urlSafe, 20)}, false},
	{"Slack configuration token", []part{exactly("xoxe.xox", alnum, 1), from("-", urlSafe, 20)}, false},
	{"Slack app token", []part{from("xapp-", urlSafe, 20)}, false},
	{"Slack webhook", []part{from("hooks.slack.com/services/T", upper, 6), from("/B", upper, 6), from("/", alnum, 20)}, false},
	// Stripe Docs, "API keys" and "Webhooks".
	{"Stripe key", []part{from("sk_live_", alnum, 16)}, false},
	{"Stripe key", []part{from("sk_test_", alnum, 16)}, false},
	{"Stripe key", []part{from("rk_live_", alnum, 16)}, false},
	{"Stripe key", []part{from("rk_test_", alnum, 16)}, false},
	{"Stripe webhook secret", []part{from("whsec_", base64, 32)}, false},
	// Package registries: npm Docs, "About access tokens"; PyPI, "API tokens" (a macaroon of pypi.org);
	// RubyGems Guides, "API key scopes"; crates.io's own token code; NuGet, "API keys".
	{"npm token", []part{exactly("npm_", alnum, 36)}, false},
	{"PyPI token", []part{from("pypi-AgE", urlSafe, 50)}, false},
	{"RubyGems token", []part{exactly("rubygems_", lowerHex, 48)}, false},
	{"crates.io token", []part{exactly("cio", alnum, 32)}, false},
	{"NuGet API key", []part{exactly("oy2", alnum, 43)}, false},
	// Model providers, each its API reference on authentication.
	{"OpenAI project key", []part{from("sk-proj-", urlSafe, 40)}, false},
	{"OpenAI service account key", []part{from("sk-svcacct-", urlSafe, 40)}, false},
	{"OpenAI admin key", []part{from("sk-admin-", urlSafe, 40)}, false},
	{"OpenAI key", []part{exactly("sk-", alnum, 48)}, false},
	{"Anthropic key", []part{from("sk-ant-", urlSafe, 40)}, false},
	{"Hugging Face token", []part{exactly("hf_", alnum, 34)}, false},
	{"Hugging Face organisation token", []part{exactly("api_org_", alnum, 34)}, false},
	{"Groq key", []part{exactly("gsk_", alnum, 52)}, false},
	{"xAI key", []part{exactly("xai-", alnum, 80)}, false},
	{"Perplexity key", []part{exactly("pplx-", alnum, 48)}, false},
	{"Replicate token", []part{exactly("r8_", alnum, 37)}, false},
	// Docker Docs, "Personal access tokens" and "Organization access tokens".
	{"Docker token", []part{from("dckr_pat_", urlSafe, 27)}, false},
	{"Docker token", []part{from("dckr_oat_", urlSafe, 32)}, false},
	// DigitalOcean API reference, "Authentication".
	{"DigitalOcean token", []part{exactly("dop_v1_", lowerHex, 64)}, false},
	{"DigitalOcean token", []part{exactly("doo_v1_", lowerHex, 64)}, false},
	{"DigitalOcean token", []part{exactly("dor_v1_", lowerHex, 64)}, false},
	// Mail and messages: Twilio Docs, "API keys"; SendGrid Docs, "API keys"; Mailgun, "API keys"; Brevo, "Authentication".
	{"SendGrid key", []part{exactly("SG.", urlSafe, 22), exactly(".", urlSafe, 43)}, false},
	{"Twilio key", []part{exactly("SK", hexadecimal, 32)}, false},
	{"Mailgun key", []part{exactly("key-", lowerHex, 32)}, false},
	{"Brevo key", []part{exactly("xkeysib-", lowerHex, 64), exactly("-", alnum, 16)}, false},
	// Commerce: Shopify.dev, "Access tokens"; Square Developer, "Access tokens".
	{"Shopify token", []part{exactly("shpat_", hexadecimal, 32)}, false},
	{"Shopify token", []part{exactly("shpca_", hexadecimal, 32)}, false},
	{"Shopify token", []part{exactly("shppa_", hexadecimal, 32)}, false},
	{"Shopify secret", []part{exactly("shpss_", hexadecimal, 32)}, false},
	{"Square token", []part{exactly("EAAA", urlSafe, 60)}, false},
	{"Square token", []part{exactly("sq0atp-", urlSafe, 22)}, false},
	{"Square secret", []part{exactly("sq0csp-", urlSafe, 43)}, false},
	// Data: Databricks, "Personal access tokens"; PlanetScale, "Service tokens"; Supabase, "API keys".
	{"Databricks token", []part{exactly("dapi", lowerHex, 32)}, false},
	{"PlanetScale token", []part{from("pscale_tkn_", padded, 32)}, false},
	{"PlanetScale password", []part{from("pscale_pw_", padded, 32)}, false},
	{"Supabase token", []part{exactly("sbp_", lowerHex, 40)}, false},
	{"Supabase secret key", []part{from("sb_secret_", urlSafe, 22)}, false},
	// Infrastructure: HashiCorp Vault, "Tokens"; Pulumi, "Access tokens"; Doppler, "Token formats"; Fly.io,
	// "Access tokens"; Heroku, "OAuth"; Tailscale, "Key prefixes"; Netlify and Linear, API references.
	{"Vault token", []part{from("hvs.", urlSafe, 24)}, false},
	{"Vault batch token", []part{from("hvb.", urlSafe, 100)}, false},
	{"Pulumi token", []part{exactly("pul-", lowerHex, 40)}, false},
	{"Doppler token", []part{exactly("dp.pt.", alnum, 43)}, false},
	{"Fly.io token", []part{from("fm2_", base64, 100)}, false},
	{"Heroku token", []part{from("HRKU-AA", urlSafe, 58)}, false},
	{"Tailscale key", []part{from("tskey-", urlSafe, 20)}, false},
	{"Netlify token", []part{exactly("nfp_", alnum, 36)}, false},
	{"Linear key", []part{exactly("lin_api_", alnum, 40)}, false},
	// Observability: Grafana, "Service accounts" and "Cloud access policies"; New Relic, "API keys"; Dynatrace,
	// "Token format"; Sentry, "Auth tokens"; Postman and Notion, API references.
	{"Grafana token", []part{exactly("glsa_", alnum, 32), exactly("_", hexadecimal, 8)}, false},
	{"Grafana Cloud token", []part{from("glc_", base64, 32)}, false},
	{"New Relic key", []part{exactly("NRAK-", upper, 27)}, false},
	{"Dynatrace token", []part{exactly("dt0c01.", upper, 24), exactly(".", upper, 64)}, false},
	{"Sentry token", []part{exactly("sntryu_", lowerHex, 64)}, false},
	{"Sentry token", []part{from("sntrys_", padded, 60)}, false},
	{"Postman key", []part{exactly("PMAK-", lowerHex, 24), exactly("-", lowerHex, 34)}, false},
	{"Notion token", []part{exactly("ntn_", alnum, 46)}, false},
	// age(1), "Identities": Bech32 in upper case.
	{"age secret key", []part{exactly("AGE-SECRET-KEY-1", bech32, 58)}, false},
	// Microsoft Learn, "Configure Azure Storage connection strings": 64 bytes; "Service Bus connection
	// strings": 32 bytes; "Create an account SAS": a signature of 32 bytes, percent-encoded.
	{"Azure Storage key", []part{exactly("AccountKey=", base64, 88)}, true},
	{"Azure shared access key", []part{exactly("SharedAccessKey=", base64, 44)}, true},
	{"Azure shared access signature", []part{between("sig=", unspaced, 43, 128)}, true},
}
