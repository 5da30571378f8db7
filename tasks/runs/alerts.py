"""What a person must hear of: automations of the Prefect server that send it on.

Tasks raise what Prefect knows nothing of (a promotion, drift ...) as events; automations turn these, failed runs and
late ones into a message to the webhook that DSC_ALERT_URL names: {"text": "..."}, as Slack and its like take it.
"""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import emit_event
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from storage.settings import Settings

Labels = dict[str, str | list[str]]

BLOCK = "dsc-alerts"

KINDS = {
    "promotion": "a new champion",
    "rollback": "a champion was rolled back",
    "quarantine": "too many bad rows",
    "stale": "candles are missing at the end",
    "gaps": "too many candles are missing",
    "ingest": "the last ingest failed",
    "champion": "the champion is not served, or soon not",
    "drift": "the market has changed",
    "skill": "the champion forecasts less than class shares do",
    "calibration": "the champion's confidence is off",
    "clock": "this machine's clock is behind",
    "paper": "a session on paper differs from the backtest",
    "halt": "trading is halted, or needs a person",
    "recovered": "something is well again",
}
"""What tasks raise, and what it means."""


def raise_alert(kind: str, market: str, text: str) -> None:
    """Emit the event of an alert of one of `KINDS`: a sentence about a market, <source>/<slug>."""
    resource = {"prefect.resource.id": f"dsc.market.{market}", "prefect.resource.name": market}
    emit_event(event=f"dsc.{kind}", resource=resource, payload={"text": text, "what": KINDS[kind]})


def install_alerts() -> list[str]:
    """Install the automations on the server in force, in place of earlier ones of the same name; return the names.

    Without DSC_ALERT_URL there are none: there is nobody to tell.
    """
    webhook = Settings.from_environment().alert_url
    if webhook is None:
        return []
    made = alert_automations(_webhook_block(webhook))
    with get_client(sync_client=True) as client:
        for automation in made:
            _install(client, automation)
    return [automation.name for automation in made]


def _webhook_block(url: str) -> UUID:
    """Save the notification block that sends to `url`, and return its id. The address stays a secret on the server."""
    fields = {
        "name": "alerts",
        "url": "{{address}}",
        "secrets": {"address": url},
        "json_data": {"text": "{{subject}}: {{body}}"},
    }
    return cast(UUID, CustomWebhookNotificationBlock.model_validate(fields).save(BLOCK, overwrite=True))


def alert_automations(block: UUID) -> list[AutomationCore]:
    """Return the automations that send a message for failed and late runs, and for everything that tasks raise.

    `block` is the notification block that sends.
    """
    run: Labels = {"prefect.resource.id": "prefect.flow-run.*"}
    ended = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}
    run_text = (
        "{{ flow.name }} of {{ deployment.name | default('no deployment') }}, run {{ flow_run.name }}, is "
        "{{ flow_run.state.name }}: {{ flow_run.state.message }} {{ flow_run | ui_url }}"
    )
    tagged_ingest: Labels = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.ingest"}
    market: Labels = {"prefect.resource.id": "dsc.market.*"}
    text = "{{ event.resource.name }}: {{ event.payload.text }}"
    return [
        _alert("failed-runs", block, "run failed", run_text, expect=ended, match=run),
        _alert(
            "late-ingest", block, "ingest is late", "{{ flow_run.name }} has not started; is a worker up?",
            expect={"prefect.flow-run.Late"}, match=run, match_related=tagged_ingest,
        ),
        *(_alert(kind, block, what, text, expect={f"dsc.{kind}"}, match=market) for kind, what in KINDS.items()),
    ]  # fmt: skip


def _alert(
    name: str,
    block: UUID,
    subject: str,
    body: str,
    *,
    expect: set[str],
    match: Labels,
    match_related: Labels | None = None,
) -> AutomationCore:
    trigger = EventTrigger(
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
        expect=expect,
        match=ResourceSpecification(match),
        match_related=ResourceSpecification(match_related or {}),
        for_each={"prefect.resource.id"},
    )
    send = SendNotification(block_document_id=block, subject=subject, body=body)
    return AutomationCore(name=f"alert-{name}", trigger=trigger, actions=[send])


def _install(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or bring the one of that name up to date; one that a person switched off stays off."""
    for found in client.read_automations_by_name(automation.name):
        if _meaning(found) != _meaning(automation):
            client.update_automation(found.id, automation.model_copy(update={"enabled": found.enabled}))
        return
    client.create_automation(automation)


def _meaning(automation: AutomationCore) -> dict[str, Any]:
    """Return what an automation does, without what the server adds to it."""
    return {
        "trigger": automation.trigger.model_dump(mode="json", exclude={"id"}),
        "actions": [action.model_dump(mode="json", exclude={"id"}) for action in automation.actions],
    }
