"""The inference server: prompt in, streamed steps, a 1024x1024 JPEG out.

Folder order is call order: `service` (gRPC edge) -> `scheduler` (queue, device thread) ->
`adapters` (slots, segment, catalogue) and `engine` (one picture) -> `model` (tensors).
"""
