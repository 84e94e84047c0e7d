/* Exchange: a followed request and its response, until their record is made.
 *
 * Only while somebody subscribes to requests. flow.c calls it, and holds the exchange of a flow; NULL: none, and every call is legal.
 */
#ifndef PYINTERCEPTOR_EXCHANGE_H
#define PYINTERCEPTOR_EXCHANGE_H

#include "frame.h"
#include "records.h"

struct exchange;

/* A request's head was read: `head` are its bytes. `flow` has the fields that the flow's own record would have, with the counts of bytes
 * moved before this request. Returns NULL without memory. */
struct exchange *exchange_begin(const struct relay_record *flow, const uint8_t *head, const struct frame *frame);

/* The response's head was read. */
void exchange_answered(struct exchange *exchange, uint32_t status, double now);

/* Makes the record and frees the exchange. `sent` and `received`: bytes that the flow has moved. */
void exchange_end(struct exchange *exchange, struct relay *relay, uint64_t sent, uint64_t received, double now);

/* Frees the exchange: somebody else makes the record. */
void exchange_drop(struct exchange *exchange);

#endif
