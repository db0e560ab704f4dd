/*
 * A message as its clients get it: server-sent events and WebSocket frames, built once for all of them.
 *
 * Knows formats, no sockets.  WHATWG HTML living standard 9.2.6 (event streams), RFC 6455 5.2 (frames from a server are
 * not masked), RFC 9112 7.1 (chunks).
 */
#ifndef CHANNELS_FRAME_H
#define CHANNELS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_kind {
    FRAME_SSE,         /* ends with the connection */
    FRAME_SSE_CHUNKED, /* each event a chunk of its own */
    FRAME_WS_TEXT,     /* a text frame when the body is UTF-8, else a binary one */
    FRAME_WS_BINARY,
    FRAME_KINDS
};

enum websocket_opcode { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

struct frame_facts {
    uint64_t epoch, number; /* the id: epoch in hexadecimal, a hyphen, the number */
    const uint8_t *event;
    size_t event_size;
    const uint8_t *body;
    size_t body_size;
};

struct frame_buffer {
    uint8_t *data;
    size_t size, capacity;
    uint32_t messages; /* in it */
};

/* False: no memory, and the buffer is as before. */
bool frame_message(struct frame_buffer *buffer, enum frame_kind kind, const struct frame_facts *facts);
/* That so many messages of a channel (NULL: of several) were missed: an SSE event named "gap" with
 * {"channel":name,"missed":number}; for WebSockets a text message, the same with "event":"gap". */
bool frame_gap(struct frame_buffer *buffer, enum frame_kind kind, uint64_t missed, const uint8_t *name,
               size_t name_size);
/* Bytes as they are, in a chunk where the kind has chunks. */
bool frame_raw(struct frame_buffer *buffer, enum frame_kind kind, const uint8_t *data, size_t size);
bool frame_websocket(struct frame_buffer *buffer, enum websocket_opcode opcode, const uint8_t *data, size_t size);
/* Empty, keeping a moderate capacity. */
void frame_reset(struct frame_buffer *buffer);
void frame_free(struct frame_buffer *buffer);

#endif
