#!/bin/sh
# What multiprocessing starts in place of Python (see mortal_spawns): Python, killed when its parent dies, or at once if
# that is dead already; and what it spawns in turn. Only spawned work is bound so: a resource tracker may be started by
# a thread that ends, and ends by itself.
case "$*" in
  *spawn_main*) die='
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(os.environ["PENSTOCK_PARENT"]):
    at = sys.argv.index("-c", 1) + 1
    sys.argv[at] = "from penstock.system.parent_death import mortal_spawns; mortal_spawns(); " + sys.argv[at]
    os.execv(sys.argv[1], sys.argv[1:])
'
    exec "$PENSTOCK_PYTHON" -I -S -c "$die" "$PENSTOCK_PYTHON" "$@" ;;
  *) exec "$PENSTOCK_PYTHON" "$@" ;;
esac
