"""A call without generated code, as grpcurl makes it: the server describes its own methods.

python clients/python/examples/reflection_call.py PROMPT
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red fox on a white background"
target = os.environ.get("WULIART_TARGET", "127.0.0.1:50051")

# Without it a call waits for ever where the network is cut or the server frozen.
options = [("grpc.keepalive_time_ms", 10_000)]

with grpc.insecure_channel(target, options) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    print("services:", ", ".join(sorted(database.get_services())))
    service = DescriptorPool(database).FindServiceByName("wuliart.v1.ImageGenerationService")
    method = service.methods_by_name["GenerateImage"]
    request = GetMessageClass(method.input_type)(prompt=prompt, steps=4)
    call: Callable[..., Iterator[Any]] = channel.unary_stream(
        f"/{service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        for response in call(request):
            event = response.WhichOneof("event")
            print(event, len(response.completed.image) if event == "completed" else "")
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
