"""penstock serve reward_model: a trained reward model behind RewardService."""

import argparse
import functools
import pathlib
import sys

import torch

from penstock.process import Process, WrongAccelerator, check_accelerator, flags, run
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk.hosting.reward_service import RewardService
from penstock.system import exits
from services.reward_model.model import RewardModel, RewardModelError
from services.reward_model.scorer import AT_ONCE, ModelScorer


async def serve(process: Process, args: argparse.Namespace, model: RewardModel) -> None:
    scorer = ModelScorer(args.reward, f"score of the reward model {args.model}", model)
    service = RewardService([scorer], at_once=AT_ONCE)
    process.server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, service)
    if process.part is not None:
        process.part.member.serves = args.reward
    await process.serving(scorer.run())


def main() -> int:
    parser = flags("reward_model", "Scores answers with a trained reward model.")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="Hugging Face directory, one label")
    parser.add_argument("--reward", default="reward_model", help="the name it is served by")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch-tokens", type=int, default=8192, help="tokens of one forward pass, padding included")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    if args.batch_tokens < 1 or args.threads < 1:
        parser.error("--batch-tokens and --threads must be at least 1")
    torch.set_num_threads(args.threads)
    try:
        check_accelerator()
    except WrongAccelerator as wrong:
        parser.exit(exits.BAD_INPUT, f"cannot start: {wrong}\n")
    try:
        model = RewardModel(args.model, args.dtype, args.batch_tokens)
    except RewardModelError as error:
        parser.error(f"--model: {error}")
    return run(args, functools.partial(serve, model=model))


if __name__ == "__main__":
    sys.exit(main())
