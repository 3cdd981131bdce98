"""Sends alerts by webhook, Slack and e-mail. A failed delivery is logged, never raised."""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import asdict
from email.message import EmailMessage
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request

from sluice.clients.outgoing import RefusedAddress, Smtp, SmtpByTls, post
from sluice.printable import first_lines, printable
from sluice.quality.results import News
from sluice.settings import AlertSettings

log = logging.getLogger(__name__)

_SECONDS = 5.0  # timeout of one delivery


class Alerts:
    """Sends news of checks by every channel in the settings.

    Each channel is tried once, for 5 seconds at most. Addresses may hold secrets and are never
    logged.
    """

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings

    def tell(self, news: Sequence[News]) -> None:
        """Send the news, findings first; return when every channel accepted it or failed."""
        ordered = sorted(news, key=lambda item: item.recovered)
        channels: dict[str, tuple[bool, Callable[[Sequence[News]], None]]] = {
            "webhook": (bool(self._settings.webhook.get_secret_value()), self._webhook),
            "Slack": (bool(self._settings.slack.get_secret_value()), self._slack),
            "e-mail": (bool(self._settings.smtp.get_secret_value()), self._mail),
        }
        for name, (configured, send) in channels.items():
            if not configured:
                continue
            try:
                send(ordered)
            except HTTPError as error:
                error.close()
                log.warning("alert by %s was refused with %d", name, error.code)
            except (URLError, RefusedAddress) as error:
                log.warning("alert by %s was not delivered (%s)", name, _cause(error))
            except (OSError, HTTPException, smtplib.SMTPException, ValueError) as error:
                log.warning("alert by %s was not delivered (%s)", name, type(error).__name__)

    def _webhook(self, news: Sequence[News]) -> None:
        items = [
            {
                **asdict(item.check),
                "difference": printable(item.check.difference),
                "repair": printable(item.check.advice),
                "before": item.before,
                "recovered": item.recovered,
                "message": item.sentence(),
            }
            for item in news
        ]
        body = {"checks": items, "page": self._settings.page}
        self._post(self._settings.webhook.get_secret_value(), body)

    def _slack(self, news: Sequence[News]) -> None:
        lines = [_headline(news), *(f"• {line}" for line in _sentences(news))]
        lines += [f"see: {self._settings.page}"] if self._settings.page else []
        text = "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        self._post(self._settings.slack.get_secret_value(), {"text": text})

    def _post(self, url: str, body: object) -> None:
        request = Request(  # noqa: S310 - settings admit http and https alone
            url,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "sluice"},
        )
        post(request, _SECONDS, anywhere=self._settings.link_local)

    def _mail(self, news: Sequence[News]) -> None:
        message = EmailMessage()
        message["Subject"] = _headline(news)
        message["From"] = self._settings.sender
        message["To"] = ", ".join(self._settings.recipients)
        parts = _sentences(news)
        parts += [f"see: {self._settings.page}"] if self._settings.page else []
        message.set_content("\n\n".join(parts) + "\n")
        server = urlsplit(self._settings.smtp.get_secret_value())
        host, port = server.hostname or "", server.port
        anywhere = self._settings.link_local
        by_tls, plain = (smtplib.SMTP_SSL, smtplib.SMTP) if anywhere else (SmtpByTls, Smtp)
        with (
            by_tls(host, port or 465, timeout=_SECONDS, context=ssl.create_default_context())
            if server.scheme == "smtps"
            else plain(host, port or 587, timeout=_SECONDS)
        ) as session:
            session.ehlo()
            if server.scheme == "smtp" and session.has_extn("starttls"):
                session.starttls(context=ssl.create_default_context())
                session.ehlo()
            if server.username:
                if not isinstance(session.sock, ssl.SSLSocket):
                    raise smtplib.SMTPNotSupportedError("no STARTTLS: the password is not sent")
                session.login(unquote(server.username), unquote(server.password or ""))
            session.send_message(message)


def _sentences(news: Sequence[News]) -> list[str]:
    """Return the news as lines for a person; a webhook gets all."""
    return first_lines([item.sentence() for item in news], "more")


def _headline(news: Sequence[News]) -> str:
    recovered = sum(item.recovered for item in news)
    parts = [f"{len(news) - recovered} findings"] if recovered < len(news) else []
    parts += [f"{recovered} recovered"] if recovered else []
    return f"Sluice: {', '.join(parts)}"


def _cause(error: OSError) -> str:
    """Return why an alert was not delivered, without the address."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, RefusedAddress):
        return "its address is link-local; SLUICE_ALERT_LINK_LOCAL=allow permits it"
    return type(error).__name__
