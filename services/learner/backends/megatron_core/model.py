"""Builds the Megatron-Core model for a Hugging Face configuration: config, layer spec, and a head-less GPT model.

The model returns hidden states; the loss applies the output layer only to trained tokens and chunk by chunk
(`token_logprobs`), so full logits never exist.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from penstock.recipes.sections import Parallel
from services.learner.backends.megatron_core.attention import TorchAttention
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.huggingface.config import ModelConfig
from services.learner.interface.policy_spec import PolicySpec

if not hasattr(moe_utils, "te_general_gemm"):
    moe_utils.te_general_gemm = None  # the router asks for it where TransformerEngine is absent, and has no such name


class RMSNorm(torch.nn.RMSNorm):
    """Megatron's torch norm refuses sequence parallelism; this one tags its weight, so that finalize_model_grads sums
    its gradient over tensor ranks. Without the tag the gradient is a partial sum, silently."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class PolicyModel(GPTModel):
    """GPTModel whose last stage returns the final hidden states [tokens(/tp), 1, hidden]."""

    def _preprocess(self, *args: Any, packed_seq_params: Any = None, **kwargs: Any) -> Any:
        """Rotary embeddings by the position of each token in its own sequence, wherever it lies in the pack: one row of
        frequencies for each token of the whole pack, of which Megatron takes those of a context rank."""
        found = super()._preprocess(*args, packed_seq_params=packed_seq_params, **kwargs)
        decoder_input, rotary, *others = found
        return decoder_input, rotary.index_select(0, packed_seq_params.pack.positions), *others

    def _postprocess(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    def head_weight(self) -> Tensor:
        """[padded vocabulary / tp, hidden]: the output layer, or the embedding it is tied to."""
        tied = self.share_embeddings_and_output_weights
        weight: Tensor = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        return weight


class ScoringModel(PolicyModel):
    """PolicyModel with a score [1, hidden] in place of the output layer, whole on every tensor rank."""

    def __init__(self, config: TransformerConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        if self.post_process:
            del self.output_layer
            self.score = torch.nn.Linear(config.hidden_size, 1, bias=False, dtype=config.params_dtype)

    def head_weight(self) -> Tensor:
        """[1, hidden]."""
        return self.score.weight


def _keep(weight: Tensor) -> Tensor:
    """Initialises nothing: weights are loaded. `perform_initialization=False` would instead also skip the
    tensor_model_parallel attributes, and the gradient norm would count tensor rank 0's shard only."""
    return weight


def megatron_config(
    model: ModelConfig,
    layout: RankGroups,
    spec: PolicySpec,
) -> TransformerConfig:
    """TransformerConfig for packed training. Fusions that need TransformerEngine or Apex are off."""
    dtype, recompute = spec.torch_dtype, spec.learner.recompute
    parallel, full = layout.parallel, recompute == "full"
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.intermediate_size,
        num_attention_heads=model.num_heads,
        num_query_groups=model.num_kv_heads,
        kv_channels=model.head_dim,
        layernorm_epsilon=model.norm_epsilon,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=model.qkv_bias,
        qk_layernorm=model.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method=_keep,
        output_layer_init_method=_keep,
        embedding_init_method=_keep,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        # Sums, not means, over data and context ranks: the loss arrives globally normalised.
        calculate_per_token_loss=True,
        # Every micro-batch has its own length; Core insists on this dispatcher then, even for dense models.
        variable_seq_lengths=parallel.pipeline > 1,
        moe_token_dispatcher_type="alltoall",
        **_experts(model, parallel),
        bias_activation_fusion=False,
        use_te_activation_func=recompute == "selective",  # an activation of both halves (see `selective`)
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        **({"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1} if full else {}),
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_stages if parallel.virtual_stages > 1 else None,
        # Interleaved stages with batched messages compute garbage silently where there are two of them.
        overlap_p2p_comm=parallel.virtual_stages > 1,
        batch_p2p_comm=parallel.virtual_stages == 1,
        context_parallel_size=parallel.context,
        cp_comm_type={"gather": "all_gather", "ulysses": "a2a"}[parallel.context_attention],
        sequence_parallel=parallel.sequence_parallel,
    )


def _experts(model: ModelConfig, parallel: Parallel) -> dict[str, Any]:
    """Every token reaches its experts, in fp32 routing and without any loss that balances them: what transformers
    computes, and what the engine samples from."""
    if model.experts is None:
        return {}
    return {
        "num_moe_experts": model.experts.number,
        "moe_router_topk": model.experts.per_token,
        "moe_ffn_hidden_size": model.experts.intermediate_size,
        # The softmax over all experts, or over the chosen ones: the same as making the former add up to one.
        "moe_router_pre_softmax": not model.experts.normalised,
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_router_dtype": "fp32",
        "expert_model_parallel_size": parallel.expert,
        "expert_tensor_parallel_size": 1,
    }


def _layer(qk_norm: bool, experts: bool) -> ModuleSpec:
    norm = RMSNorm if qk_norm else IdentityOp
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear,
        core_attention=TorchAttention,
        linear_proj=RowParallelLinear,
        q_layernorm=norm,
        k_layernorm=norm,
    )
    mlp = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    mixture = ModuleSpec(
        module=MoELayer, submodules=MoESubmodules(experts=ModuleSpec(module=SequentialMLP, submodules=mlp))
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mixture if experts else ModuleSpec(module=MLP, submodules=mlp),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def build(model: ModelConfig, config: TransformerConfig, layout: RankGroups) -> list[PolicyModel]:
    """This rank's tensor shard of its pipeline stage, weights uninitialised: one chunk of layers, or several that take
    turns with those of the other stages."""
    virtual = layout.parallel.virtual_stages
    return [_chunk(model, config, layout, v if virtual > 1 else None) for v in range(virtual)]


def _chunk(model: ModelConfig, config: TransformerConfig, layout: RankGroups, turn: int | None) -> PolicyModel:
    pp = layout.groups.pp
    layers = get_num_layers_to_build(config, turn, pp.rank())
    tensor = layout.parallel.tensor
    layer = _layer(model.qk_norm, model.experts is not None)
    make = ScoringModel if model.scores else PolicyModel
    return make(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules([layer] * layers, RMSNorm),
        vocab_size=-(-model.vocab_size // tensor) * tensor,
        max_sequence_length=model.max_positions,
        pre_process=pp.rank() == 0 and turn in (None, 0),
        post_process=pp.rank() == pp.size() - 1 and turn in (None, layout.parallel.virtual_stages - 1),
        parallel_output=True,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=model.rope_base,
        rope_scaling=model.rope_factor is not None,
        rope_scaling_factor=model.rope_factor or 1.0,
        pg_collection=layout.groups,
        vp_stage=turn,
    ).to(layout.device)
