#!/bin/sh
# Train on several machines under Slurm: sbatch examples/slurm.sh ./imgs run
#SBATCH --job-name=wgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
set -eu

data=$1 out=$2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One torchrun a machine, a process a GPU. The run stops and saves ten minutes before Slurm would end the job; the same
# job, submitted again, goes on. The batch is that of all processes together.
srun torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-4}" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
  -m wgan_cli train --data "$data" -o "$out" --batch 512 --time-limit 3h50m
