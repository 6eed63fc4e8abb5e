#!/usr/bin/env bash
#PBS -N big-run
#PBS -q gpu
#PBS -A climate
#PBS -l select=2:ncpus=16:mpiprocs=4:ompthreads=4:mem=65536mb:ngpus=4
#PBS -l place=scatter
#PBS -l walltime=01:30:00
#PBS -r y
#PBS -j oe
#PBS -o logs/
#PBS --exclusive

cd "$PBS_O_WORKDIR" || exit 1
module purge
module load openmpi/5.0
told='' job=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap pass_on USR2 TERM
/opt/venv/bin/python -m distgrad run -n 8 --threads 4 train.py --lr 0.1 --resume auto &
job=$!
[ -z "$told" ] || pass_on
(trap 'kill "$!"' TERM; sleep 5100 & wait "$!" && kill -s USR2 $$) &
timer=$!
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
kill "$timer" 2>/dev/null
exit "$code"
