"""Reevaluation tasks: a stored version measured again, a session replayed."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.schema import VersionRef
from storage.settings import Settings
from tasks.champion.remeasure import Reevaluation, remeasure
from tasks.live.session_review import SessionReview, review_session
from tasks.runs.page import put_table


@task(cache_policy=NO_CACHE, task_run_name="reevaluate {version}")
def reevaluate(version: str) -> Reevaluation:
    """Verify a version's files, predict and backtest its unseen bars again, and compare.

    Raises:
        ArtifactError: The version is unknown or damaged, or its numbers do not come out again.
    """
    settings, ref = Settings.from_environment(), VersionRef.parse(version)
    artifact = ArtifactStore(settings.models).load(ref, source=ref.source)
    result = remeasure(artifact, settings.datasets)
    get_run_logger().info(
        f"reevaluated version={version} differences={len(result.differences)} parity={result.parity:.1e}"
    )
    put_table("evaluation", result.cells(), f"{version} measured again")
    result.require_equal()
    return result


@task(cache_policy=NO_CACHE, task_run_name="review {session}")
def review(session: str) -> SessionReview:
    """Replay a session from its journal, and show what each cause made of its difference from a backtest.

    Raises:
        StoreError: There is no such session.
    """
    from tasks.champion.prediction import predict_history  # with torch: who deploys the flow does without

    log = get_run_logger()
    found = review_session(Settings.from_environment(), session, predict_history, log.info)
    log.info(f"reviewed session={session} accounts={len(found.accounts)} unexplained={found.unexplained}")
    put_table("session-review", found.rows(), f"{session}: paper beside a backtest of the same candles")
    return found
