/* Finds the hosts that a client asks a proxy for, in bytes that pass unparsed. RFC 9112 section 3.2.
 *
 * Pure: bytes in, authorities out. Every line counts as a possible request line, since nobody knows where a message that
 * can't be framed ends. Each byte is read once; nothing is held back: a request without its whole authority is none. Called
 * by passing.c, and by the tests through cffi.
 */
#ifndef PYINTERCEPTOR_WATCH_H
#define PYINTERCEPTOR_WATCH_H

#include "hosts.h"

#define AUTHORITY_MAX 264     /* bytes: a host in brackets, a colon and a port */

/* The progress of reading one line. Zero it before the first byte. All but the last three members are private. */
struct watch {
	uint8_t place;            /* enum watch_place */
	uint8_t is_connect;       /* 1: the method is a prefix of CONNECT so far */
	uint8_t method;           /* bytes of the method, at most 255 are counted */
	uint8_t is_asked;         /* 1: `authority` is complete */
	uint8_t has_binary;       /* 1: a byte came that no request line has */
	uint8_t reserved[1];
	uint16_t length;          /* of the authority; AUTHORITY_MAX: too long */
	char authority[AUTHORITY_MAX + 1]; /* of the last request that was found: host and port; NUL-terminated */
};

/* Reads further bytes of the client, up to the end of an authority. Returns the number of bytes read. If `is_asked` is
 * set, the byte behind them ends the authority of CONNECT or of a target in absolute form, in whatever case and with
 * whatever blanks; user information is left out. */
uint32_t watch_eat(struct watch *watch, const uint8_t *bytes, uint32_t length);

#endif
