"""Automations of the Prefect server: runs that died without a word, and what a person must hear of.

Prefect's open-source server cleans up nothing: a run whose processes were all killed stays "Running" for ever and keeps
its concurrency slot. The guard here ends it once its heartbeats have been missing for three of their intervals, so
every process that runs a flow must beat at least that often (`flows.operation` sets it for all that it starts).
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

HEARTBEAT_S = 30  # the shortest that Prefect takes
_MISSED_BEATS = 3


def install_automations() -> list[str]:
    """Install every automation on the server in force, in place of earlier ones of the same name; return the names."""
    made = [zombie_guard()]
    with get_client(sync_client=True) as client:
        for automation in made:
            _install(client, automation)
    return [automation.name for automation in made]


def zombie_guard(heartbeat_s: int = HEARTBEAT_S) -> AutomationCore:
    """Return the automation that marks a run as crashed whose heartbeats stopped.

    A run that was killed before its first heartbeat is not covered: that heartbeat arms the trigger.
    """
    run_event = "prefect.flow-run.{}".format
    alive_or_over = {run_event(name) for name in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")}
    window = timedelta(seconds=_MISSED_BEATS * heartbeat_s)
    trigger = EventTrigger(
        posture=Posture.Proactive,
        threshold=1,
        within=window,
        match={"prefect.resource.id": run_event("*")},
        for_each={"prefect.resource.id"},
        after={run_event("heartbeat")},
        expect=alive_or_over,
    )
    message = f"no heartbeat for {window.seconds} s"
    crash = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    return AutomationCore(name="crash-zombies", trigger=trigger, actions=[crash])


def _install(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or bring the one of that name up to date; one that a person switched off stays off."""
    for found in client.read_automations_by_name(automation.name):
        client.update_automation(found.id, automation.model_copy(update={"enabled": found.enabled}))
        return
    client.create_automation(automation)
