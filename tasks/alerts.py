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
START_S = 300  # a worker starts a process within seconds; a busy machine has needed half a minute
_MISSED_BEATS = 3


def install_automations() -> list[str]:
    """Install every automation on the server in force, in place of earlier ones of the same name; return the names."""
    made = [zombie_guard(), start_guard()]
    with get_client(sync_client=True) as client:
        for automation in made:
            _install(client, automation)
    return [automation.name for automation in made]


def zombie_guard(heartbeat_s: int = HEARTBEAT_S) -> AutomationCore:
    """Return the automation that marks a run as crashed whose heartbeats stopped, or never began.

    A run that was being cancelled when its worker died is one of them: nobody is left to finish the cancelling.
    """
    return _guard("crash-zombies", ("Running", "Cancelling"), _MISSED_BEATS * heartbeat_s, "no heartbeat")


def start_guard(start_s: int = START_S) -> AutomationCore:
    """Return the automation that marks a run as crashed whose worker died before the run began."""
    return _guard("crash-stuck-starts", ("Submitting", "Pending", "InfrastructurePending"), start_s, "not started")


def _guard(name: str, states: tuple[str, ...], window_s: int, missing: str) -> AutomationCore:
    run_event = "prefect.flow-run.{}".format
    alive_or_over = {"heartbeat", "Running", "Completed", "Failed", "TimedOut", "Cancelled", "Crashed"}
    beats = {"heartbeat"} if "Running" in states else set()
    trigger = EventTrigger(
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=window_s),
        match={"prefect.resource.id": run_event("*")},
        for_each={"prefect.resource.id"},
        after={run_event(event) for event in {*states, *beats}},
        expect={run_event(event) for event in alive_or_over},
    )
    message = f"{missing} for {window_s} s"
    crash = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    return AutomationCore(name=name, trigger=trigger, actions=[crash])


def _install(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or bring the one of that name up to date; one that a person switched off stays off."""
    for found in client.read_automations_by_name(automation.name):
        client.update_automation(found.id, automation.model_copy(update={"enabled": found.enabled}))
        return
    client.create_automation(automation)
