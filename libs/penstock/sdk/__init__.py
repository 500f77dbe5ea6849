"""For authors of rewards, environments and agents: serve a function in five lines, without torch, vLLM or Megatron."""

from penstock.sdk.agents import Agent, Endpoint, Task, agent
from penstock.sdk.client import checked_results
from penstock.sdk.conformance import Check, Report, check_agent, check_environment, check_reward
from penstock.sdk.environments import BadRow, Environment, Turn
from penstock.sdk.rewards import Reward, reward
from penstock.sdk.samples import Invalid, Message, Result, Sample, Scored
from penstock.sdk.serving import serve

__all__ = [
    "Agent",
    "BadRow",
    "Check",
    "Endpoint",
    "Environment",
    "Invalid",
    "Message",
    "Report",
    "Result",
    "Reward",
    "Sample",
    "Scored",
    "Task",
    "Turn",
    "agent",
    "check_agent",
    "check_environment",
    "check_reward",
    "checked_results",
    "reward",
    "serve",
]
