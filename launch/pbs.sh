#!/usr/bin/env bash
# Two nodes with four ranks each under PBS: put in your own names and numbers, and submit it with
#   qsub launch/pbs.sh
# Made by: distgrad job --scheduler pbs --nodes 2 --ranks-per-node 4 --threads 2 --walltime 01:00:00 \
#   --job-name train --python python3 --resume auto --job-script-prologue 'source .venv/bin/activate' -- train.py
#
#PBS -N train
# Chunks are nodes: so many cores, ranks and threads on each.
#PBS -l select=2:ncpus=8:mpiprocs=4:ompthreads=2
#PBS -l place=scatter
#PBS -l walltime=01:00:00
# PBS may run it again after preemption or the loss of a node.
#PBS -r y
#PBS -j oe

cd "$PBS_O_WORKDIR" || exit 1

# Your environment: a virtual environment here, or `module load` lines.
source .venv/bin/activate

# What the scheduler tells this script is passed on to the ranks, which save a checkpoint at the same step and
# end with exit code 0. The script itself waits until they have.
told='' job=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap pass_on USR2 TERM

# distgrad run takes the nodes from PBS, by PALS, Open MPI, MPICH or Intel MPI.
python3 -m distgrad run -n 8 --threads 2 train.py --resume auto &
job=$!
[ -z "$told" ] || pass_on

# PBS has no warning ahead of the walltime, so the script gives it to itself, 180 s before. After that, submit it again:
# it goes on where it stopped.
(trap 'kill "$!"' TERM; sleep 3420 & wait "$!" && kill -s USR2 $$) &
timer=$!
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
kill "$timer" 2>/dev/null
exit "$code"
