"""Restores pictures by the service, over gRPC. Runs in the serving environment (grpcio, protobuf, the messages).

build/serving/venv/bin/python deploy/serving_python/pipeline_rpc_client.py --image_dir assets/demo --save_dir output/rpc
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.serving_python.pipeline_http_client import Ask, ClientError, arguments, restore_folder
from deploy.serving_python.wire import METHOD, SERVICE, messages


def rpc_ask(endpoint: str, token: str | None, timeout: float) -> Ask:
    """Sends to `host:port`."""
    import grpc

    proto = messages()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = grpc.insecure_channel(endpoint, options=[*options, ("grpc.enable_http_proxy", 0)])
    call = channel.unary_unary(
        METHOD,
        request_serializer=proto.Request.SerializeToString,
        response_deserializer=proto.Response.FromString,
    )
    metadata = [("authorization", f"Bearer {token}")] if token else None

    def ask(request: dict) -> dict:
        message = proto.Request(name=SERVICE, method="prediction", clientip="client", **request)
        try:
            response = call(message, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise ClientError(f"{endpoint}: {error.code().name}: {error.details()}") from None
        return {
            "err_no": response.err_no,
            "err_msg": response.err_msg,
            "key": list(response.key),
            "value": list(response.value),
        }

    return ask


def main(given: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = arguments(__doc__.splitlines()[0], "--endpoint", "127.0.0.1:18081").parse_args(given)
    try:
        return restore_folder(rpc_ask(args.endpoint, args.token, args.timeout), args)
    except ModuleNotFoundError as error:
        print(f"pipeline_rpc_client.py: {error.name} is missing; use build/serving/venv/bin/python", file=sys.stderr)
    except (ClientError, OSError) as error:
        print(f"pipeline_rpc_client.py: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
