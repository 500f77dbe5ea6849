"""verl: keys that stand alone."""

from collections.abc import Mapping

from penstock.migrate.carrying import Row, nowhere, real, to, whole

LEARNER = "the learner's own business: see learner.ranks, learner.parallel and learner.micro_batch_tokens"
ENGINE = "the engine's own business: see generation"
SERVICE = "rewards are services: environment.name, environment.rewards (write-a-reward.md)"
ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"

TABLE: Mapping[str, Row] = {
    "actor_rollout_ref.model.path": to("model.path"),
    "actor_rollout_ref.model.enable_gradient_checkpointing": to(
        "learner.recompute", lambda on: "full" if on else "none"
    ),
    "actor_rollout_ref.model.use_remove_padding": nowhere("sequences are always packed", True),
    "actor_rollout_ref.model.use_shm": nowhere(LEARNER),
    "actor_rollout_ref.model.trust_remote_code": nowhere("code that comes with a model is not run"),
    "actor_rollout_ref.model.lora_alpha": to("learner.lora.alpha", real),
    "actor_rollout_ref.model.*": nowhere(LEARNER, True, "all-linear"),
    "actor_rollout_ref.hybrid_engine": nowhere("generation and learner are services of their own", True),
    f"{ACTOR}.optim.lr": to("learner.optimizer.learning_rate", real),
    f"{ACTOR}.optim.weight_decay": to("learner.optimizer.weight_decay", real),
    f"{ACTOR}.grad_clip": to("learner.optimizer.clip_gradient", real),
    f"{ACTOR}.optim.clip_grad": to("learner.optimizer.clip_gradient", real),
    f"{ACTOR}.entropy_coeff": to("algorithm.loss.entropy_coefficient", real),
    f"{ACTOR}.ppo_max_token_len_per_gpu": to("learner.micro_batch_tokens", whole),
    f"{ACTOR}.ppo_micro_batch_size": nowhere("samples are packed by tokens: learner.micro_batch_tokens"),
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": nowhere("samples are packed by tokens: learner.micro_batch_tokens"),
    f"{ACTOR}.use_dynamic_bsz": nowhere("always packed by tokens", True),
    f"{ACTOR}.calculate_entropy": nowhere("the entropy is always recorded", True),
    f"{ACTOR}.shuffle": nowhere("mini-batches are whole groups in admission order"),
    f"{ACTOR}.*": nowhere(LEARNER, True, 0, 1, -1, "fsdp", "disabled", "constant", 42),
    f"{REF}.*": nowhere("the reference is scored as the policy is", True, 0, 1, -1),
    f"{ROLLOUT}.name": nowhere("engines are vLLM's", "vllm"),
    f"{ROLLOUT}.mode": nowhere("always asynchronous", "async"),
    f"{ROLLOUT}.temperature": to("sampling.temperature", real),
    f"{ROLLOUT}.top_p": to("sampling.top_p", real),
    f"{ROLLOUT}.top_k": to("sampling.top_k", lambda k: max(whole(k), 0)),
    f"{ROLLOUT}.tensor_model_parallel_size": to("generation.tensor", whole),
    f"{ROLLOUT}.gpu_memory_utilization": to("generation.gpu_memory_fraction", real),
    f"{ROLLOUT}.max_num_seqs": to("generation.max_running", whole),
    f"{ROLLOUT}.enforce_eager": to("generation.compile", lambda eager: not eager),
    f"{ROLLOUT}.calculate_log_probs": nowhere("the engine always says its log-probs", True),
    f"{ROLLOUT}.prompt_length": nowhere("generation.max_context bounds prompt and answer together"),
    f"{ROLLOUT}.response_length": nowhere("is data.max_response_length"),
    f"{ROLLOUT}.multi_turn.enable": nowhere("episodes are environment.multi_turn, played by a service"),
    f"{ROLLOUT}.multi_turn.max_assistant_turns": to("environment.max_turns", whole),
    f"{ROLLOUT}.*": nowhere(ENGINE, True, 0, 1, -1, 1.0),
    "data.seed": to("data.seed"),
    "data.shuffle": to("data.shuffle"),
    "data.truncation": nowhere("see data.too_long", "error"),
    "data.filter_overlong_prompts": nowhere("a sample that is too long has FAILED; see data.too_long", True),
    "data.reward_fn_key": nowhere("the whole row reaches the reward", "data_source"),
    "data.train_max_samples": to("data.limit", lambda n: None if n < 0 else n),
    "data.return_raw_chat": nowhere("conversations are always rendered here", True),
    "data.*": nowhere(
        "rows are read as they are; data.prompt, data.messages and data.completion name their fields", True
    ),
    "algorithm.filter_groups.enable": to("algorithm.filters.zero_variance"),
    "algorithm.filter_groups.metric": nowhere("groups are judged by their rewards", "reward", "score", "seq_reward"),
    "algorithm.filter_groups.*": nowhere("a filtered group gives its slot back at once", 0, 1),
    "algorithm.kl_ctrl.horizon": nowhere("the coefficient is fixed", 10000),
    "algorithm.kl_ctrl.target_kl": nowhere("the coefficient is fixed", 0.1),
    "algorithm.pf_ppo.*": nowhere("samples are not drawn again by their rewards", "pow", 2.0),
    "algorithm.use_pf_ppo": nowhere("samples are not drawn again by their rewards"),
    "trainer.total_epochs": nowhere("a run has algorithm.steps", 30),
    "trainer.total_training_steps": to("algorithm.steps", whole),
    "trainer.critic_warmup": to("algorithm.critic.warmup_steps", lambda n: whole(n) or None),
    "trainer.max_actor_ckpt_to_keep": to("learner.checkpoints.keep", whole),
    "trainer.val_before_train": nowhere("version 0 is always measured", True),
    "trainer.val_only": nowhere("penstock eval measures a model"),
    "trainer.default_local_dir": nowhere("a run's directory is runs/<run>"),
    "trainer.default_hdfs_dir": nowhere("a run's directory is runs/<run>"),
    "trainer.resume_mode": nowhere("a run of that name goes on", "auto"),
    "trainer.*": nowhere("has no counterpart here", True, 0, 1, -1, "cuda"),
    "custom_reward_function.*": nowhere(SERVICE),
    "reward.*": nowhere(SERVICE),
    "reward_model.*": nowhere(
        "a reward model is a part of the reward: environment.rewards[].model", True, 0, 1, "naive"
    ),
    "critic.*": nowhere("see algorithm.critic; the rest is the learner's own business", True, 0, 1, -1),
    "ray_kwargs.*": nowhere("no Ray here"),
    "ray_init.*": nowhere("no Ray here"),
    "global_profiler.*": nowhere("see telemetry", 0, 1, True),
    "transfer_queue.*": nowhere("samples travel in the run's log"),
    "hydra.*": nowhere("no Hydra here"),
}
