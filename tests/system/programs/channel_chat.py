"""A chat over WebSockets: two descriptors are waited for, with uWSGI's draft of channels between the workers."""

import uwsgi  # type: ignore[import-not-found]


def application(env, start_response):  # type: ignore[no-untyped-def]
    uwsgi.websocket_handshake(env["HTTP_SEC_WEBSOCKET_KEY"], env.get("HTTP_ORIGIN", ""))
    uwsgi.channel_join("chat")
    websocket_fd = uwsgi.connection_fd()
    channel_fd = uwsgi.channel_fd()
    uwsgi.websocket_send(f"worker {uwsgi.worker_id()}")
    while True:
        uwsgi.wait_fd_read(websocket_fd, 3)
        uwsgi.wait_fd_read(channel_fd)
        uwsgi.suspend()
        fd = uwsgi.ready_fd()
        if fd == channel_fd:
            message = uwsgi.channel_recv()
            if message is not None:
                uwsgi.websocket_send(message)
        else:
            message = uwsgi.websocket_recv_nb()
            if message:
                uwsgi.channel_send("chat", message)
