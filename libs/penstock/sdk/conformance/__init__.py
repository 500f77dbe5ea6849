"""The contract test kit: does a service, in whatever language, keep the promises of its proto?

    report = await check_reward("127.0.0.1:7000")
    report.passed, [check for check in report.checks if not check.passed]

Each check has a name and, if it fails, says what was expected and what came.
"""

from penstock.sdk.conformance.agent import check_agent
from penstock.sdk.conformance.environment import check_environment
from penstock.sdk.conformance.promises import Check, Report
from penstock.sdk.conformance.reward import check_reward

__all__ = ["Check", "Report", "check_agent", "check_environment", "check_reward"]
