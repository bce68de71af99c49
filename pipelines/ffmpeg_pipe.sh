#!/usr/bin/env bash
# Upscale in the middle of a pipe: FFmpeg decodes and filters, hatvid upscales, FFmpeg encodes.
# Run: ffmpeg_pipe.sh input.mkv output.mkv --scale 2
#
# What stands behind the two names goes to `hatvid upscale`. Times and colours travel as raw
# video in Matroska; sound and subtitles are copied from the input by the second FFmpeg. Environment:
# DECODE and ENCODE, options for the two FFmpegs, as DECODE="-vf yadif" ENCODE="-c:v libx265".
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 INPUT OUTPUT [options of \`hatvid upscale\`]" >&2
  exit 2
fi
input=$1 output=$2
shift 2
for program in ffmpeg hatvid; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is not on the PATH; install it, or activate its environment" >&2
    exit 2
  fi
done
if [ -e "$output" ]; then
  echo "$output exists; name another output" >&2
  exit 1
fi
read -ra decode <<<"${DECODE:-}"
read -ra encode <<<"${ENCODE:--c:v libx264 -crf 16}"

# -copyts: what comes in late (a first frame at 0.1 s) goes out late, beside its sound.
ffmpeg -v error -nostdin -copyts -i "file:$input" -map 0:v:0 "${decode[@]}" \
  -c:v rawvideo -f matroska - |
  hatvid upscale - -o - --format mkv --progressive --codec rawvideo "$@" |
  ffmpeg -v error -nostdin -n -copyts -i - -copyts -i "file:$input" \
    -map 0:v:0 -map '1:a?' -map '1:s?' -map '1:t?' -c copy "${encode[@]}" "file:$output"
