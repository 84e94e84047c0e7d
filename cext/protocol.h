/* What a flow speaks, as far as its client's first bytes tell: sniff.c's answer, and what a policy is asked about. */
#ifndef PYINTERCEPTOR_PROTOCOL_H
#define PYINTERCEPTOR_PROTOCOL_H

/* NONE: nothing yet. HTTP: 1.x. HTTP2: without TLS. OPAQUE: something else. */
enum protocol { PROTOCOL_NONE = 0, PROTOCOL_HTTP = 1, PROTOCOL_TLS = 2, PROTOCOL_HTTP2 = 3, PROTOCOL_OPAQUE = 4 };

#endif
