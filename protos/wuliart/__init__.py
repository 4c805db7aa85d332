"""Code generated from the `.proto` files in this folder; `make protos` renews it.

`wuliart.v1` is the public contract, `wuliart.internal.v1` the one between the server and its LoRA
manager. Limits, error reasons and the form of a recipe, which protobuf cannot express, are in
`wuliart_contract`.
"""
