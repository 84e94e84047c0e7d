/* Answers a TLS client that is refused, so that its user reads the reason instead of "connection reset". Called by
 * flow.c.
 */
#ifndef PYINTERCEPTOR_ALERT_H
#define PYINTERCEPTOR_ALERT_H

/* Discards the bytes that the client has sent, and sends it the fatal alert access_denied (RFC 8446 section 6.2). The
 * client must not have received a byte. Returns 1 if the alert is sent; then close the socket with a FIN. */
int alert_send(int client);

#endif
