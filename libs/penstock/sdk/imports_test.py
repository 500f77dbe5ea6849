import subprocess
import sys


def test_the_sdk_needs_no_heavy_library() -> None:
    program = "import sys, penstock.sdk; print([m for m in ('torch', 'vllm', 'megatron', 'nats') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
