#!/usr/bin/env bash
#BSUB -J big-run
#BSUB -q gpu
#BSUB -P climate
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -R "affinity[core(4)]"
#BSUB -R "rusage[mem=65536MB/host]"
#BSUB -gpu "num=4"
#BSUB -W 01:30
#BSUB -r -Q "75"
#BSUB -o logs/%J.out
#BSUB --exclusive

module purge
module load openmpi/5.0
told='' job='' stopping=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap 'stopping=yes; pass_on' USR2
trap pass_on TERM
/opt/venv/bin/python -m distgrad run -n 8 --threads 4 train.py --lr 0.1 --resume auto &
job=$!
[ -z "$told" ] || pass_on
(trap 'kill "$!"' TERM; sleep 5100 & wait "$!" && kill -s USR2 $$) &
timer=$!
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
kill "$timer" 2>/dev/null
# Told that its time is up, and all ranks stopped well: LSF runs a job again that ends with this code.
if [ "$code" -eq 0 ] && [ -n "$stopping" ]; then exit 75; fi
exit "$code"
