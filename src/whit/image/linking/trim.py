"""Trim: files that people and compilers read, and running programs do not.

Copyright notices stay: licences ask for it.
"""

from __future__ import annotations

import re

RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("documentation", re.compile(r"usr/(local/)?share/(doc/(?!.*/copyright$)|doc-base/|gtk-doc/|help/|info/).*")),
    ("manual page", re.compile(r"usr/(local/)?share/man/.*")),
    ("translation", re.compile(r"usr/(local/)?share/(locale/|i18n/|nls/).*|usr/lib/locale/(?!C\.utf8)[^/]*/.*")),
    ("cache", re.compile(r"var/cache/[^/]+/.+|var/lib/apt/.+|var/lib/dpkg/info/.+")),
    ("static library", re.compile(r"usr/(local/)?lib/.*\.(a|la)")),
    ("header", re.compile(r"usr/(local/)?include/.*|.*/(pkgconfig|cmake)/.*|usr/share/aclocal/.*|.*\.(pxd|pyi)")),
    ("package check data", re.compile(r"usr/share/(lintian|bug|reportbug)/.*")),
    ("shell completion", re.compile(r"usr/share/(bash-completion|zsh|fish)/.*|etc/bash_completion\.d/.*")),
    ("desktop file", re.compile(r"usr/share/(applications|icons|pixmaps|menu|metainfo)/.*")),
    (
        "service of another init",
        re.compile(r"(usr/)?lib/(systemd|tmpfiles\.d|sysusers\.d)/.*|etc/(init|init\.d|rc.\.d)/.*"),
    ),
    ("job of a scheduler", re.compile(r"etc/(cron\.[a-z]+|logrotate\.d|apport|ufw)/.*")),
)


def reason(path: str) -> str:
    """Why a file stays out of a trimmed part; empty if it stays."""
    return next((name for name, pattern in RULES if pattern.fullmatch(path)), "")
