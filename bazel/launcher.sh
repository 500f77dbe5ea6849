#!/usr/bin/env bash
# Filled in by //bazel:py.bzl: finds the runfiles and the venv, then becomes the interpreter.
set -eu
if [ -d "$0.runfiles" ]; then
  R="$(cd "$0.runfiles" && pwd)"
elif [ -n "${RUNFILES_DIR:-}" ]; then
  R="$RUNFILES_DIR"
elif [ -n "${TEST_SRCDIR:-}" ]; then
  R="$TEST_SRCDIR"
else
  echo >&2 "$0: no runfiles found"
  exit 1
fi
# venv.json is a symlink to the file in the repository that holds the venv, in and out of the sandbox.
VENV="$(dirname "$(readlink -f "$R/%VENV%")")/venv"
if [ ! -x "$VENV/bin/python" ]; then
  echo >&2 "$0: no interpreter at $VENV/bin/python (venvs are not shipped to remote executors)"
  exit 1
fi
export RUNFILES_DIR="$R" PENSTOCK_RUNFILES="$R/%WORKSPACE%" PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
# PENSTOCK_PACKAGES: a folder of the user's own packages, for the services that the supervisor gives it to.
export PYTHONPATH="%IMPORTS%${PENSTOCK_PACKAGES:+:$PENSTOCK_PACKAGES}" PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
if [ -n "${TEST_TMPDIR:-}" ]; then
  # Bazel has gone to the runfiles already; a program that a test starts stays where the test puts it.
  export HOME="$TEST_TMPDIR"
elif [ -n "${BUILD_WORKING_DIRECTORY:-}" ]; then
  cd "$BUILD_WORKING_DIRECTORY"
fi
%ENV%
exec %COMMAND% "$@"
