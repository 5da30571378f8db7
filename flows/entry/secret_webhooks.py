"""No log and no event of Prefect's server says where an alert is sent: whoever knows the address can write there.

The error of a webhook that answers 500 has it in its text, which the server logs at each of its attempts.
"""

import logging

from prefect.server.events.actions import ActionFailed, SendNotification
from prefect.server.events.schemas.automations import TriggeredAction

_send = SendNotification.act


def keep_webhooks_secret() -> None:
    """Have this process, which is a server, say of an alert that can't be sent only how it failed."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # below that it logs the address of every request
    SendNotification.act = _act  # type: ignore[method-assign]


async def _act(self: SendNotification, triggered_action: TriggeredAction) -> None:
    try:
        await _send(self, triggered_action)
    except ActionFailed:
        raise
    except Exception as err:
        answer = getattr(err, "response", None)
        why = type(err).__name__ if answer is None else f"it answers {answer.status_code}"
        raise RuntimeError(f"an alert can't be sent to its webhook ({why}); check DSC_ALERT_URL") from None
