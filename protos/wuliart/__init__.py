"""The contract of WuliArt Turbo: what server, LoRA manager and clients all know.

`wuliart.v1` and `wuliart.internal.v1` are generated from the `.proto` files beside this
module; `wuliart.contract` holds what protobuf cannot say (limits, reasons of failure, the
layout of an adapter slot); `wuliart_lora` reads LoRA files. This package imports none of the
programs that use it.
"""
