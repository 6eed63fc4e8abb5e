#!/usr/bin/env bash
# Two nodes with four ranks each under LSF: put in your own names and numbers, and submit it with
#   bsub < launch/lsf.sh
# Made by: distgrad job --scheduler lsf --nodes 2 --ranks-per-node 4 --threads 2 --walltime 01:00:00 \
#   --job-name train --python python3 --resume auto --job-script-prologue 'source .venv/bin/activate' -- train.py
#
#BSUB -J train
# All the ranks, so many on a node, each with cores of its own.
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -R "affinity[core(2)]"
#BSUB -W 01:00
# Run again after the loss of a node, and when the script ends with code 75.
#BSUB -r -Q "75"
#BSUB -o %J.out

# Your environment: a virtual environment here, or `module load` lines.
source .venv/bin/activate

# What the scheduler tells this script is passed on to the ranks, which save a checkpoint at the same step and
# end with exit code 0. The script itself waits until they have.
told='' job='' stopping=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap 'stopping=yes; pass_on' USR2
trap pass_on TERM

# jsrun where the cluster has it, else mpirun with LSF's list of hosts.
python3 -m distgrad run -n 8 --threads 2 train.py --resume auto &
job=$!
[ -z "$told" ] || pass_on

# 180 s ahead of the end the script warns itself: LSF's own warning (-wa) would also go to every rank, twice.
(trap 'kill "$!"' TERM; sleep 3420 & wait "$!" && kill -s USR2 $$) &
timer=$!
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
kill "$timer" 2>/dev/null
# Told that its time is up, and all ranks stopped well: LSF runs a job again that ends with this code.
if [ "$code" -eq 0 ] && [ -n "$stopping" ]; then exit 75; fi
exit "$code"
