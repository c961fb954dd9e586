"""How a process learns that it is one of several."""

import pytest

from vit_jax.launch import Place, find_place
from vit_jax.processes import joined, leads, share

SLURM = {"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "3"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}
OURS = {"JAX_COORDINATOR_ADDRESS": "job-0-0.job:1234", "JAX_NUM_PROCESSES": "2"}


@pytest.mark.parametrize(
    ("flags", "environment", "place"),
    [
        ((), {}, None),
        ((), {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, None),  # no srun
        ((), {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ((), {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        ((), SLURM, Place(16, 3, None, "slurm")),
        ((), MPI | {"OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:9"}, Place(4, 1, None, "ompi")),
        ((), MPI | {"JAX_COORDINATOR_ADDRESS": "a:1"}, Place(4, 1, "a:1")),
        ((), OURS | {"JAX_PROCESS_ID": "1"}, Place(2, 1, "job-0-0.job:1234")),
        ((), OURS | {"JOB_COMPLETION_INDEX": "0"}, Place(2, 0, "job-0-0.job:1234")),
        (("a:1", 2, 1), SLURM, Place(2, 1, "a:1")),
        (("a:1", 1, 0), {}, None),
    ],
)
def test_flags_stand_above_the_environment(flags, environment, place):
    assert find_place(*flags, environment=environment) == place


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (("a:1", None, None), {}, "--num-processes, --process-id: missing"),
        (("a:1", 2, 2), {}, "--process-id=2 with --num-processes=2: should be at least 0 and bel"),
        (("a:1", 0, 0), {}, "--process-id=0 with --num-processes=0"),
        (("a", 2, 0), {}, "--coordinator=a: should be HOST:PORT"),
        ((), MPI, "4 processes are announced, but not where process 0 is"),
        ((), OURS, "2 processes are announced, but not where process 0 is, or which this is"),
        ((), SLURM | {"SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS=x: should be a whole"),
    ],
)
def test_what_is_missing_is_said(flags, environment, said):
    with pytest.raises(ValueError, match=said):
        find_place(*flags, environment=environment)


def test_a_process_alone_leads_and_brings_everything():
    with joined(None):
        assert share() == (0, 1)
        assert leads()
