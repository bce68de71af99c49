#!/usr/bin/env bash
#SBATCH --job-name=hatvid
#SBATCH --gpus=1
#SBATCH --output=hatvid_%a.log
# Upscale a folder of videos on a cluster that runs Slurm: one task of an array for each video.
# Run: sbatch --array=1-$(ls holiday | wc -l) slurm_array.sh holiday holiday_x4 --scale 4
#
# The n-th task takes the n-th name of the folder (in the order of ls); one whose output is
# there already has nothing to do, so that a second run of the same line does only what is
# missing. What stands behind the two folders goes to `hatvid upscale`. Without Slurm:
# SLURM_ARRAY_TASK_ID=3 slurm_array.sh holiday holiday_x4
set -euo pipefail

if [ $# -lt 2 ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
  echo "usage: sbatch --array=1-COUNT $0 INPUT_FOLDER OUTPUT_FOLDER [options of \`hatvid upscale\`]" >&2
  exit 2
fi
from=${1%/} to=${2%/}
shift 2
names=("$from"/*)
input=${names[SLURM_ARRAY_TASK_ID - 1]:-}
if [ ! -f "$input" ]; then
  echo "$from has no video number $SLURM_ARRAY_TASK_ID; ask for --array=1-${#names[@]}" >&2
  exit 1
fi
mkdir -p -- "$to"
name=${input##*/}
output=$to/${name%.*}.mkv
if [ -e "$output" ]; then
  echo "already there: $output"
  exit 0
fi
# What a GPU is given is in CUDA_VISIBLE_DEVICES already.
exec hatvid upscale --progress none -o "$output" "$@" -- "$input"
