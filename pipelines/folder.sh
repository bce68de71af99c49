#!/usr/bin/env bash
# Upscale every video of a folder into another folder.
#
# Run: folder.sh holiday holiday_x4 --scale 4 --crf 16
#
# What stands behind the two folders goes to `hatvid upscale`.
# Each video keeps its name; one in a container that hatvid does not write (avi, wmv, ...
# or that keeps no colours, y4m) gets .mkv behind it. A video whose output is there
# already is skipped, whatever the options: hatvid gives an output its name only when it is whole, so running the
# same line again goes on where the last run stopped. A video that fails is told and the
# others are still done; the exit code is then the worst of all. Folders inside the
# folder are left alone.
set -u
shopt -s nullglob nocasematch

if [ $# -lt 2 ]; then
  echo "usage: $0 INPUT_FOLDER OUTPUT_FOLDER [options of \`hatvid upscale\`]" >&2
  exit 2
fi
from=${1%/} to=${2%/}
shift 2
if [ ! -d "${from:-/}" ]; then
  echo "$from is not a folder; give the folder that holds the videos" >&2
  exit 2
fi
if ! command -v hatvid >/dev/null; then
  echo "hatvid is not on the PATH; activate its environment first" >&2
  exit 2
fi
mkdir -p -- "${to:-/}" || exit 1
if [ "${from:-/}" -ef "${to:-/}" ]; then
  echo "the output folder is the input folder; give another one" >&2
  exit 2
fi

worst=0 found=0
for input in "$from"/*; do
  [ -f "$input" ] || continue
  name=${input##*/}
  case $name in
    *.flv | *.m2ts | *.m4v | *.mkv | *.mov | *.mp4 | *.mts | *.nut | *.ts | *.webm)
      output=$to/$name ;;
    *.3gp | *.avi | *.mpeg | *.mpg | *.ogv | *.vob | *.wmv | *.y4m)
      output=$to/$name.mkv ;;
    *) continue ;;
  esac
  found=$((found + 1))
  if [ -e "$output" ]; then
    printf 'skipped, already there: %s\n' "$output"
    continue
  fi
  printf '%s -> %s\n' "$input" "$output"
  hatvid upscale -o "$output" "$@" -- "$input" </dev/null
  code=$?
  if [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; then
    exit "$code" # stopped by the user: not the next video either
  fi
  if [ "$code" -ne 0 ]; then
    printf 'failed with exit code %d: %s\n' "$code" "$input" >&2
    if [ "$code" -gt "$worst" ]; then worst=$code; fi
  fi
done

if [ "$found" -eq 0 ]; then
  echo "no video found in $from" >&2
  exit 1
fi
exit "$worst"
