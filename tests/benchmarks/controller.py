"""What the controller of the benchmark has: jobs in folders, some of which built once more since the last poll.

Everything follows from the number of jobs, so that server and clients need not tell each other names.
"""

from __future__ import annotations

BUILDS = 20  # that every job has kept, known from the poll before
FRESH = 100  # jobs that finished one more build since
JOBS_IN_A_FOLDER = 100

_WORDS = ("account", "basket", "catalog", "delivery", "export", "gateway", "invoice", "ledger", "notify", "search")

USERNAME, TOKEN = "hivel-agent", "sandbox-token"


def folder_name(folder: int) -> str:
    """The name of a folder at the top."""
    return f"team-{folder:03d}"


def job_name(job: int) -> str:
    """The name of a job within its folder."""
    return f"{_WORDS[job * 7 % len(_WORDS)]}-{job:05d}-deploy"


def newest_build(job: int) -> int:
    """The number of a job's newest build that is known from the poll before: another one for every job."""
    return BUILDS + job * 7_919 % 3_000


def full_name(job: int) -> str:
    """The name of a job with its folder."""
    return f"{folder_name(job // JOBS_IN_A_FOLDER)}/{job_name(job)}"


def fresh_jobs(jobs: int) -> range:
    """The jobs with a new build, spread evenly."""
    return range(0, jobs, jobs // FRESH)


def known_builds(jobs: int) -> dict[str, int]:
    """The newest build of every job that is known from the poll before."""
    return {full_name(job): newest_build(job) for job in range(jobs)}
