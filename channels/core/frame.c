/* See frame.h. */
#define _GNU_SOURCE
#include "frame.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define KEEP_CAPACITY (256u * 1024u)
#define NAME_BYTES 255u
#define CHUNK_HEAD_MAX 18u /* 16 hexadecimal digits, CR, LF */

static bool reserve(struct frame_buffer *buffer, size_t more) {
    if (buffer->capacity - buffer->size >= more)
        return true;
    size_t capacity = buffer->capacity < 4096 ? 4096 : buffer->capacity;
    while (capacity - buffer->size < more) {
        if (capacity > SIZE_MAX / 2)
            return false;
        capacity *= 2;
    }
    uint8_t *grown = realloc(buffer->data, capacity);
    if (grown == NULL)
        return false;
    buffer->data = grown;
    buffer->capacity = capacity;
    return true;
}

static uint8_t *put(uint8_t *to, const void *from, size_t size) {
    memcpy(to, from, size);
    return to + size;
}

static uint8_t *put_text(uint8_t *to, const char *text) { return put(to, text, strlen(text)); }

static uint8_t *put_number(uint8_t *to, uint64_t number, unsigned base) {
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0);
    while (count > 0)
        *to++ = (uint8_t)digits[--count];
    return to;
}

/* Bytes of the line that begins at `at`, and in `*next` where the one after it begins; past the end: none does. */
static size_t line(const uint8_t *body, size_t size, size_t at, size_t *next) {
    const uint8_t *from = body + at;
    const uint8_t *feed = memchr(from, '\n', size - at);
    size_t length = feed == NULL ? size - at : (size_t)(feed - from);
    const uint8_t *back = memchr(from, '\r', length);
    if (back != NULL) {
        length = (size_t)(back - from);
        *next = at + length + (at + length + 1 < size && body[at + length + 1] == '\n' ? 2 : 1);
    } else {
        *next = feed == NULL ? size + 1 : at + length + 1;
    }
    return length;
}

static size_t count_lines(const uint8_t *body, size_t size) {
    size_t lines = 0;
    for (size_t at = 0; at <= size; lines++)
        (void)line(body, size, at, &at);
    return lines;
}

/* Line feeds begin further fields, which whoever published has checked (web/sse.py, event_fields); an empty line would
 * end the event. */
static bool event_ok(const uint8_t *text, size_t size) {
    return memchr(text, '\r', size) == NULL && memmem(text, size, "\n\n", 2) == NULL && text[size - 1] != '\n';
}

static uint8_t *put_event(uint8_t *to, const struct frame_facts *facts) {
    to = put_text(to, "id: ");
    to = put_number(to, facts->epoch, 16);
    *to++ = '-';
    to = put_number(to, facts->number, 10);
    *to++ = '\n';
    if (facts->event_size != 0 && event_ok(facts->event, facts->event_size)) {
        to = put_text(to, "event: ");
        to = put(to, facts->event, facts->event_size);
        *to++ = '\n';
    }
    for (size_t at = 0; at <= facts->body_size;) {
        size_t next, length = line(facts->body, facts->body_size, at, &next);
        to = put_text(to, "data: ");
        to = put(to, facts->body + at, length);
        *to++ = '\n';
        at = next;
    }
    *to++ = '\n';
    return to;
}

/* The chunk's size stands before it, and is known only afterwards: its place is reserved, what is left of it closed. */
static void close_chunk(struct frame_buffer *buffer, size_t start, uint8_t *end) {
    uint8_t *body = buffer->data + start + CHUNK_HEAD_MAX;
    uint8_t head[CHUNK_HEAD_MAX];
    uint8_t *head_end = put_number(head, (uint64_t)(end - body), 16);
    *head_end++ = '\r';
    *head_end++ = '\n';
    size_t head_size = (size_t)(head_end - head), body_size = (size_t)(end - body);
    memmove(buffer->data + start + head_size, body, body_size);
    memcpy(buffer->data + start, head, head_size);
    uint8_t *after = buffer->data + start + head_size + body_size;
    after = put_text(after, "\r\n");
    buffer->size = (size_t)(after - buffer->data);
}

static bool event(struct frame_buffer *buffer, bool chunked, const struct frame_facts *facts) {
    size_t most = facts->body_size + 7 * count_lines(facts->body, facts->body_size) + facts->event_size + 64;
    if (!reserve(buffer, most + 2 * CHUNK_HEAD_MAX))
        return false;
    size_t start = buffer->size;
    uint8_t *from = buffer->data + start;
    if (!chunked) {
        buffer->size = (size_t)(put_event(from, facts) - buffer->data);
        return true;
    }
    close_chunk(buffer, start, put_event(from + CHUNK_HEAD_MAX, facts));
    return true;
}

/* An event stream is UTF-8 (WHATWG 9.2.3): what is none becomes U+FFFD. */
static bool event_of_bytes(struct frame_buffer *buffer, bool chunked, const struct frame_facts *facts) {
    uint8_t *text = malloc(3 * facts->body_size), *to = text;
    if (text == NULL)
        return false;
    for (size_t i = 0; i < facts->body_size;) {
        uint32_t point;
        size_t left = facts->body_size - i, bytes = utf8_character(facts->body + i, left, &point);
        to = bytes != 0 ? put(to, facts->body + i, bytes) : put_text(to, "\xef\xbf\xbd");
        i += bytes != 0 ? bytes : utf8_broken(facts->body + i, left);
    }
    struct frame_facts clean = *facts;
    clean.body = text;
    clean.body_size = (size_t)(to - text);
    bool done = event(buffer, chunked, &clean);
    free(text);
    return done;
}

bool frame_message(struct frame_buffer *buffer, enum frame_kind kind, const struct frame_facts *facts) {
    bool done, text = kind != FRAME_WS_BINARY && utf8_ok(facts->body, facts->body_size);
    if (kind == FRAME_SSE || kind == FRAME_SSE_CHUNKED)
        done = (text ? event : event_of_bytes)(buffer, kind == FRAME_SSE_CHUNKED, facts);
    else
        done = frame_websocket(buffer, text ? WS_TEXT : WS_BINARY, facts->body, facts->body_size);
    buffer->messages += done;
    return done;
}

bool frame_gap(struct frame_buffer *buffer, enum frame_kind kind, uint64_t missed, const uint8_t *name,
               size_t name_size) {
    bool websocket = kind == FRAME_WS_TEXT || kind == FRAME_WS_BINARY;
    uint8_t text[2 * NAME_BYTES + 80]; /* every byte of a name may need a backslash */
    if (name_size > NAME_BYTES)
        name = NULL;
    uint8_t *end = put_text(text, websocket ? "{\"event\":\"gap\",\"channel\":" : "event: gap\ndata: {\"channel\":");
    if (name == NULL) {
        end = put_text(end, "null");
    } else {
        *end++ = '"';
        for (size_t i = 0; i < name_size; i++) {
            if (name[i] == '"' || name[i] == '\\')
                *end++ = '\\';
            *end++ = name[i];
        }
        *end++ = '"';
    }
    end = put_text(end, ",\"missed\":");
    end = put_number(end, missed, 10);
    end = put_text(end, websocket ? "}" : "}\n\n");
    if (websocket)
        return frame_websocket(buffer, WS_TEXT, text, (size_t)(end - text));
    return frame_raw(buffer, kind, text, (size_t)(end - text));
}

bool frame_raw(struct frame_buffer *buffer, enum frame_kind kind, const uint8_t *data, size_t size) {
    if (!reserve(buffer, size + 2 * CHUNK_HEAD_MAX))
        return false;
    uint8_t *to = buffer->data + buffer->size;
    if (kind == FRAME_SSE_CHUNKED) {
        to = put_number(to, size, 16);
        to = put_text(to, "\r\n");
    }
    to = put(to, data, size);
    if (kind == FRAME_SSE_CHUNKED)
        to = put_text(to, "\r\n");
    buffer->size = (size_t)(to - buffer->data);
    return true;
}

bool frame_websocket(struct frame_buffer *buffer, enum websocket_opcode opcode, const uint8_t *data, size_t size) {
    if (!reserve(buffer, size + 10))
        return false;
    uint8_t *to = buffer->data + buffer->size;
    *to++ = (uint8_t)(0x80 | opcode);
    if (size < 126) {
        *to++ = (uint8_t)size;
    } else {
        int bytes = size < 65536 ? 2 : 8;
        *to++ = bytes == 2 ? 126 : 127;
        for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
            *to++ = (uint8_t)((uint64_t)size >> shift);
    }
    to = put(to, data, size);
    buffer->size = (size_t)(to - buffer->data);
    return true;
}

void frame_reset(struct frame_buffer *buffer) {
    buffer->size = 0;
    buffer->messages = 0;
    if (buffer->capacity > KEEP_CAPACITY)
        frame_free(buffer);
}

void frame_free(struct frame_buffer *buffer) {
    free(buffer->data);
    *buffer = (struct frame_buffer){0};
}
