"""Keys and tokens by the form that their makers gave them so that they can be found.

The forms are those of the services' own documentation, and of the tables of token formats that GitHub, GitLab and Slack
publish (docs.github.com/code-security/secret-scanning, docs.gitlab.com/security/tokens, api.slack.com/authentication); what
they do not list is seen in the samples of github.com/Samsung/CredSweeper, tests/samples.
"""

from __future__ import annotations

import re
from collections import Counter

from .placeholders import KEY, substitute

_PREFIXED = re.compile(
    r"""(?<![A-Za-z0-9_])(?:
    (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}                                # AWS
    |sk-[A-Za-z0-9_-]{20,}                                             # OpenAI, Anthropic, DeepSeek, OpenRouter
    |gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}           # GitHub
    |gl[a-z]{1,6}-[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_.]{2,40})?|GR1348941[A-Za-z0-9_-]{20,}   # GitLab
    |xox[a-z]-[A-Za-z0-9-]{10,}|xox[a-z]\.[A-Za-z0-9.-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}   # Slack
    |[rsp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,}   # Stripe
    |AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_.-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}|1//0[A-Za-z0-9_-]{40,}   # Google
    |hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{30,}                      # Hugging Face
    |gsk_[A-Za-z0-9]{30,}|r8_[A-Za-z0-9]{30,}|xai-[A-Za-z0-9]{30,}|pplx-[A-Za-z0-9]{30,}|nvapi-[A-Za-z0-9_-]{30,}
    |lsv2_[a-z]{2}_[a-f0-9]{32}_[a-f0-9]{10}                           # LangSmith
    |npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|rubygems_[a-f0-9]{48}|oy2[a-z0-9]{43}|cio[A-Za-z0-9]{32}   # registries
    |do[opr]_v1_[a-f0-9]{60,}|dckr_[po]at_[A-Za-z0-9_-]{20,}           # DigitalOcean, Docker
    |SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}   # SendGrid, Brevo
    |key-[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}                           # Mailgun, Mailchimp
    |(?:AC|SK)[0-9a-f]{32}|shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}          # Twilio, Shopify
    |sq0[a-z]{3}-[A-Za-z0-9_-]{20,}|EAAA[A-Za-z0-9_-]{60}|EAA[A-Za-z0-9]{80,}   # Square, Facebook
    |access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}  # PayPal's Braintree
    |access-(?:production|sandbox|development)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}   # Plaid
    |dapi[a-f0-9]{32}(?:-\d)?|dp\.(?:pt|st|sa|ct|scim|audit)\.[A-Za-z0-9._-]{40,}   # Databricks, Doppler
    |(?:secret|ntn|lin_api|figd|pat|lin_oauth)_[A-Za-z0-9_-]{36,}      # Notion, Linear, Figma
    |pat[A-Za-z0-9]{14}\.[a-f0-9]{64}                                  # Airtable
    |AT[AC]TT3[A-Za-z0-9_=-]{60,}|ATBB[A-Za-z0-9]{32}                  # Atlassian, Bitbucket
    |hv[sbr]\.[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}   # HashiCorp
    |glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}|glc_[A-Za-z0-9+/=]{32,}          # Grafana
    |NRAK-[A-Z0-9]{27}|sntrys_[A-Za-z0-9+/=_-]{40,}|sntryu_[a-f0-9]{64}|dt0c01\.[A-Z0-9]{24}\.[A-Z0-9]{64}
    |PMAK-[a-f0-9]{24}-[a-f0-9]{34}|pul-[a-f0-9]{40}|HRKU-[A-Za-z0-9_-]{36,}|tskey-[a-z]{1,10}-[A-Za-z0-9-]{20,}
    |sbp_[a-f0-9]{40}|sb_secret_[A-Za-z0-9_-]{20,}|pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.-]{32,}|nfp_[A-Za-z0-9]{36,}
    |fo1_[A-Za-z0-9_-]{43}|fm2_[A-Za-z0-9+/=]{100,}|v1\.0-[a-f0-9]{24}-[a-f0-9]{146}   # Fly.io, Cloudflare
    |[sp]k\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}|sl\.[A-Za-z0-9_-]{60,}   # Mapbox, Dropbox
    |shippo_(?:live|test)_[a-f0-9]{40}|EZ[AT]K[A-Za-z0-9]{54}|CFPAT-[A-Za-z0-9_-]{43}|rdme_[a-z0-9]{70}|tfp_[A-Za-z0-9_-]{44,}
    |LTAI[A-Za-z0-9]{16,20}|AKID[A-Za-z0-9]{32}|y0_[A-Za-z0-9_-]{50,}  # Alibaba, Tencent, Yandex
    |[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34}                       # Microsoft Entra
    |cf[au]t_[A-Za-z0-9_-]{40,}|cfk_[A-Za-z0-9_-]{40,}|vcp_[A-Za-z0-9]{40,}|CLOJARS_[a-f0-9]{60}|dnkey-[A-Z0-9-]{50,}
    |SWM(?:TKN-1-[a-z0-9]{50}-[a-z0-9]{25}|KEY-1-[A-Za-z0-9+/]{43})    # Docker Swarm
    |llx-[A-Za-z0-9_-]{40,}|tvly-[A-Za-z0-9-]{32,}|tgp_v1_[A-Za-z0-9_-]{43}|ph[xrs]_[A-Za-z0-9]{40,}|sq[uap]_[a-f0-9]{40}
    |BBDC-[A-Za-z0-9+/]{40,}|AKCp[A-Za-z0-9]{60,}|PMAT-[A-Z0-9]{26}|sbp_v0_[a-f0-9]{40}|IGQ[A-Za-z0-9_-]{100,}
    |NRII-[A-Za-z0-9_-]{26,}|[a-z0-9]{32,40}NRAL|[a-f0-9]{32}(?:-[a-f0-9]{8}){2}|SK[0-9A-F]{32}
    |\d{15,17}\|[A-Za-z0-9_-]{27}|A{20,}[A-Za-z0-9%+/=]{60,}|00D[A-Za-z0-9]{12,15}![A-Za-z0-9._]{60,}  # Facebook, X, Salesforce
    |LS0tLS1CRUdJTi(?:BQUklWQVRF|BSU0Eg|BFQyBQ|BPUEVOU1NI)[A-Za-z0-9+/=]{40,}
    |eyJrIjoi[A-Za-z0-9+/=_-]{40,}   # keys in base 64
    |AGE-SECRET-KEY-1[0-9A-Z]{50,}|ops_eyJ[A-Za-z0-9_-]{40,}           # age, 1Password
    |\d{8,10}:AA[A-Za-z0-9_-]{32,}                                     # Telegram bots
    |[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}   # Discord bots
    |eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)? # JSON web tokens
    )""",
    re.VERBOSE,
)
_HOOK = re.compile(
    r"(?:hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/"
    r"|[a-z0-9-]{1,63}\.webhook\.office\.com/|hooks\.zapier\.com/hooks/catch/)[A-Za-z0-9/_@.-]{10,}"
)
_HEADER = re.compile(
    r"(?i)\b(?:bearer[\"']?|authorization[\"']{0,2}\s?:\s?[\"']{0,2}(?:basic|token|apikey|digest))\s+[\"']?(?P<value>[A-Za-z0-9._~+/=-]{16,})"
)
_SIGNED = re.compile(r"[?&](?:sig|signature|X-Amz-Signature|X-Goog-Signature)=(?P<value>[A-Za-z0-9%+/=_-]{20,})")
_CRYPT = re.compile(
    r"\$(?:2[abxy]\$\d\d\$[./A-Za-z0-9]{53}|(?:1|5|6|y|apr1)\$[^\s:$]{1,64}\$(?:[^\s:$]{1,64}\$)?[./A-Za-z0-9]{20,})"
)


def scrub_service_tokens(text: str, counts: Counter[str]) -> str:
    """`text` without tokens of a known form, addresses that are a secret, authorization headers and password hashes."""
    text = substitute(_PREFIXED, text, KEY, counts, lambda match: _made(match[0]))
    if "hook" in text:
        text = substitute(_HOOK, text, KEY, counts)
    text = substitute(_HEADER, text, KEY, counts, lambda match: _made(match["value"]) or not match["value"].islower())
    if "=" in text:
        text = substitute(_SIGNED, text, KEY, counts)
    return substitute(_CRYPT, text, "password", counts) if "$" in text else text


def _made(token: str) -> bool:
    """False for words with hyphens that happen to begin like a token, such as a class of a style sheet."""
    return any(letter.isdigit() for letter in token) or (token != token.lower() and "-" not in token[4:])
