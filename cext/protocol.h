/* The protocol of a flow, by its client's first bytes. sniff.c returns it; policy_decide() takes it. */
#ifndef PYINTERCEPTOR_PROTOCOL_H
#define PYINTERCEPTOR_PROTOCOL_H

/* NONE: the client has sent nothing yet. HTTP: HTTP/1.x. HTTP2: HTTP/2 without TLS. OPAQUE: any other protocol. */
enum protocol { PROTOCOL_NONE = 0, PROTOCOL_HTTP = 1, PROTOCOL_TLS = 2, PROTOCOL_HTTP2 = 3, PROTOCOL_OPAQUE = 4 };

#endif
