"""From a transformers model to the engine's own blocks, one function a family."""

from __future__ import annotations

from typing import Any

import torch

from services.reward.engine.decoder import Block, Decoder, Shape
from services.reward.engine.linear import ACTIVATIONS, LayerNorm, Linear, RMSNorm


class Unsupported(Exception):
    """The packed forward does not compute what this model computes; the message says why."""


def decoder_of(body: Any, head: torch.nn.Module, max_tokens: int) -> Decoder:
    """The packed form of `body` (an AutoModel) with `head` on top; raises `Unsupported`."""
    kind = body.config.model_type
    if kind in {"llama", "qwen2", "qwen3", "mistral"}:
        return _llama(body, head, max_tokens)
    if kind == "gpt_neox":
        return _gpt_neox(body, head, max_tokens)
    if kind == "gptj":
        return _gptj(body, head, max_tokens)
    raise Unsupported(f"{kind} has no packed forward")


def activation_of(name: str) -> str:
    """The engine's name of a transformers activation."""
    if name not in ACTIVATIONS:
        raise Unsupported(f"the activation {name} is not known")
    return ACTIVATIONS[name]


def _rotation(inverse: torch.Tensor, scaling: float, positions: int) -> torch.Tensor:
    """`[positions, pairs]` complex64, computed on the CPU in fp32 as transformers does."""
    angles = torch.arange(positions).float()[:, None] * inverse.float().cpu()
    return torch.complex(angles.cos() * scaling, angles.sin() * scaling).to(inverse.device)


def _embedded_rotation(rotary: Any, max_tokens: int) -> torch.Tensor:
    if getattr(rotary, "rope_type", "default") in {"dynamic", "longrope"}:
        raise Unsupported(f"its {rotary.rope_type} positions depend on the length of the text")
    return _rotation(rotary.inv_freq, float(rotary.attention_scaling), max_tokens)


def interleave(rows: torch.Tensor | None, heads: int, width: int, rotary: int) -> torch.Tensor | None:
    """Rows of a query or key projection (or its bias), reordered within each head.

    Half-split rotary pairs (i, i + rotary/2) become neighbours, so that a rotation is one complex product.
    Queries and keys are reordered alike, which leaves their products as they were.
    """
    if rows is None:
        return None
    half = torch.arange(rotary // 2)
    order = torch.cat((torch.stack((half, half + rotary // 2), 1).flatten(), torch.arange(rotary, width)))
    return rows.unflatten(0, (heads, width))[:, order.to(rows.device)].flatten(0, 1)


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [p for p in parts if p is not None]
    if not present:
        return None
    if len(present) != len(parts):
        raise Unsupported("only some of its projections have a bias")
    return torch.cat(present)


def _scaled(x: torch.Tensor | None, scale: float) -> torch.Tensor | None:
    return None if x is None else x * scale


def _projections(
    weights: list[torch.Tensor], biases: list[torch.Tensor | None], *, last: bool
) -> tuple[Linear | None, Linear | None, Linear | None]:
    """`qkv` of a layer, or `q` and `kv` of the last one."""
    if not last:
        return Linear(torch.cat(weights), _joined(biases)), None, None
    return None, Linear(weights[0], biases[0]), Linear(torch.cat(weights[1:]), _joined(biases[1:]))


def _linear(module: Any) -> Linear:
    return Linear(module.weight, module.bias)


def _llama(body: Any, head: torch.nn.Module, max_tokens: int) -> Decoder:
    config = body.config
    window = getattr(config, "sliding_window", None)
    slides = (
        "sliding_attention" in (getattr(config, "layer_types", None) or []) or config.model_type == "mistral"
    )
    if window is not None and slides and window < max_tokens:
        raise Unsupported(f"its attention slides over {window} tokens; set max_tokens to that or less")
    first = body.layers[0].self_attn
    width = first.head_dim
    shape = Shape(config.num_attention_heads, config.num_key_value_heads, width, width)
    act = activation_of(config.hidden_act)
    blocks = []
    for number, layer in enumerate(body.layers):
        attention, mlp = layer.self_attn, layer.mlp
        normed = getattr(attention, "q_norm", None) is not None
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        scale = 1.0 if normed else attention.scaling
        q_norm = _head_norm(attention.q_norm, width, attention.scaling) if normed else None
        k_norm = _head_norm(attention.k_norm, width, 1.0) if normed else None
        qkv, q_only, kv = _projections(
            [
                _turned(q.weight, shape.heads, width, scale),
                _turned(k.weight, shape.kv_heads, width, 1.0),
                v.weight,
            ],
            [
                _scaled(interleave(q.bias, shape.heads, width, width), scale),
                interleave(k.bias, shape.kv_heads, width, width),
                v.bias,
            ],
            last=number == len(body.layers) - 1,
        )
        blocks.append(
            Block(
                before_attention=_rms(layer.input_layernorm),
                before_mlp=_rms(layer.post_attention_layernorm),
                qkv=qkv,
                q=q_only,
                kv=kv,
                qk_norm=_joint_norm(q_norm, k_norm, shape),
                q_norm=q_norm,
                k_norm=k_norm,
                out=_linear(attention.o_proj),
                gate=_linear(mlp.gate_proj),
                up=_linear(mlp.up_proj),
                down=_linear(mlp.down_proj),
                activation=act,
                parallel=False,
            )
        )
    rotation = _embedded_rotation(body.rotary_emb, max_tokens)
    return Decoder(body.embed_tokens.weight.detach(), blocks, _rms(body.norm), head, shape, rotation)


def _rms(module: Any) -> RMSNorm:
    return RMSNorm(module.weight, module.variance_epsilon)


def _head_norm(module: Any, width: int, scale: float) -> RMSNorm:
    weight = interleave(module.weight.detach() * scale, 1, width, width)
    assert weight is not None
    return RMSNorm(weight, module.variance_epsilon)


def _joint_norm(q: RMSNorm | None, k: RMSNorm | None, shape: Shape) -> RMSNorm | None:
    """The norms of queries and keys in one."""
    if q is None or k is None:
        return None
    weights = (q.weight.expand(shape.heads, -1), k.weight.expand(shape.kv_heads, -1))
    return RMSNorm(torch.cat(weights), q.eps)


def _turned(weight: torch.Tensor, heads: int, width: int, scale: float) -> torch.Tensor:
    turned = interleave(weight, heads, width, width)
    assert turned is not None
    return turned * scale if scale != 1.0 else turned


def _layer_norm(module: Any) -> LayerNorm:
    return LayerNorm(module.weight, module.bias, module.eps)


def _gpt_neox(body: Any, head: torch.nn.Module, max_tokens: int) -> Decoder:
    config = body.config
    first = body.layers[0].attention
    width, rotary, heads = first.head_size, first.rotary_ndims, config.num_attention_heads
    shape = Shape(heads, heads, width, rotary)
    blocks = []
    for number, layer in enumerate(body.layers):
        attention, mlp = layer.attention, layer.mlp
        # Rows of the fused projection go by head first, then query, key, value.
        rows = attention.query_key_value.weight.unflatten(0, (heads, 3, width))
        bias = attention.query_key_value.bias
        turns = (attention.scaling, 1.0)
        weights = [interleave(rows[:, i].flatten(0, 1), heads, width, rotary) for i in (0, 1)]
        biases: list[torch.Tensor | None] = [None, None, None]
        if bias is not None:
            by_head = bias.unflatten(0, (heads, 3, width))
            turned = [interleave(by_head[:, i].flatten(), heads, width, rotary) for i in (0, 1)]
            biases = [*(_scaled(b, s) for b, s in zip(turned, turns, strict=True)), by_head[:, 2].flatten()]
        scaled = [w * s for w, s in zip(weights, turns, strict=True) if w is not None]
        last = number == len(body.layers) - 1
        qkv, q_only, kv = _projections([*scaled, rows[:, 2].flatten(0, 1)], biases, last=last)
        blocks.append(
            Block(
                before_attention=_layer_norm(layer.input_layernorm),
                before_mlp=_layer_norm(layer.post_attention_layernorm),
                qkv=qkv,
                q=q_only,
                kv=kv,
                qk_norm=None,
                q_norm=None,
                k_norm=None,
                out=_linear(attention.dense),
                gate=None,
                up=_linear(mlp.dense_h_to_4h),
                down=_linear(mlp.dense_4h_to_h),
                activation=activation_of(config.hidden_act),
                parallel=config.use_parallel_residual,
            )
        )
    rotation = _embedded_rotation(body.rotary_emb, max_tokens)
    final = _layer_norm(body.final_layer_norm)
    return Decoder(body.embed_in.weight.detach(), blocks, final, head, shape, rotation)


def _gptj(body: Any, head: torch.nn.Module, max_tokens: int) -> Decoder:
    config = body.config
    width = config.n_embd // config.n_head
    rotary = config.rotary_dim or width
    if config.rotary_dim is None:
        raise Unsupported("it rotates by its whole hidden width")
    shape = Shape(config.n_head, config.n_head, width, rotary)
    blocks = []
    for number, layer in enumerate(body.h):
        attention, mlp = layer.attn, layer.mlp
        weights = [attention.q_proj.weight * width**-0.5, attention.k_proj.weight, attention.v_proj.weight]
        qkv, q_only, kv = _projections(weights, [None, None, None], last=number == len(body.h) - 1)
        blocks.append(
            Block(
                before_attention=_layer_norm(layer.ln_1),
                before_mlp=None,
                qkv=qkv,
                q=q_only,
                kv=kv,
                qk_norm=None,
                q_norm=None,
                k_norm=None,
                out=_linear(attention.out_proj),
                gate=None,
                up=_linear(mlp.fc_in),
                down=_linear(mlp.fc_out),
                activation=activation_of(config.activation_function),
                parallel=True,
            )
        )
    table = body.h[0].attn.embed_positions[:max_tokens].float()
    sin, cos = table.chunk(2, dim=-1)
    rotation = torch.complex(cos.contiguous(), sin.contiguous())
    return Decoder(body.wte.weight.detach(), blocks, _layer_norm(body.ln_f), head, shape, rotation)
