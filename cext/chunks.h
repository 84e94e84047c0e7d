/* Finds where a chunked body ends (RFC 9112 section 7.1).
 *
 * Pure: no I/O, no allocation. Called by follow.c.
 */
#ifndef PYINTERCEPTOR_CHUNKS_H
#define PYINTERCEPTOR_CHUNKS_H

#include "frame.h"

#define CHUNK_EXTENSION_MAX 1024 /* bytes of extensions of one chunk of a request */

/* The progress of parsing a chunked body. Zero it before a body. */
struct chunks {
	uint64_t remaining;       /* private: the size parsed so far; then the bytes left of the chunk's data */
	uint32_t state;           /* private */
	uint32_t seen;            /* private: bytes of the current line or trailer section */
	uint32_t reading;         /* enum reading: WHOLE after the blank line that ends the body; BAD: pass no more bytes */
	uint32_t is_lenient;      /* 1: a response's body: blanks around a size and any byte in extensions and trailers but a
	                             bare CR or LF are allowed, without a limit. All clients that accept them find the same
	                             end */
};

/* Parses up to `length` bytes and stops at the end of the body. Returns the number of bytes that belong to the body,
 * including framing; for READING_BAD, the number before the fault. Limits of a request: CHUNK_EXTENSION_MAX bytes of
 * extensions for a chunk, HEAD_MAX bytes of trailers. */
uint32_t chunks_eat(struct chunks *state, const uint8_t *bytes, uint32_t length);

/* Returns how many bytes of chunk data come next. The caller may move them without parsing, and then calls
 * chunks_skip(). */
uint64_t chunks_ahead(const struct chunks *state);

/* Skips `count` bytes of chunk data that the caller has moved; at most chunks_ahead(). */
void chunks_skip(struct chunks *state, uint64_t count);

#endif
