"""What a stranger may send to any RPC, for the tests of every server.

    findings = await assault(server.address, reward_pb2.DESCRIPTOR.services_by_name["RewardService"], seeds)
    assert findings == []

The attacks are derived from the service's descriptor, so that a new method or field is attacked without a new test.
"""

from penstock.testing.hostile_messages.payloads import Attack, attacks, unacceptable
from penstock.testing.hostile_messages.sending import Target, assault, check_health, judge

__all__ = ["Attack", "Target", "assault", "attacks", "check_health", "judge", "unacceptable"]
