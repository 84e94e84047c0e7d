/* Exchange: a followed request and its response, until their record is made.
 *
 * Exists only while there is a subscriber to requests. Called by passing.c and flow.c; the flow owns its exchange. NULL,
 * for no exchange, is allowed in every call that takes one.
 */
#ifndef PYINTERCEPTOR_EXCHANGE_H
#define PYINTERCEPTOR_EXCHANGE_H

#include "frame.h"
#include "records.h"

struct exchange;

/* Begins an exchange after a request's head was parsed; `head` is its bytes. `flow` has the fields of the flow's own
 * record, with the counts of bytes moved before this request. Returns NULL if memory is short. */
struct exchange *exchange_begin(const struct relay_record *flow, const uint8_t *head, const struct frame *frame);

/* Sets the status, after the response's head was parsed. Only the first call has an effect. */
void exchange_answered(struct exchange *exchange, uint32_t status, double now);

/* Makes the record and frees the exchange. `sent` and `received` are the bytes that the flow has moved in total. */
void exchange_end(struct exchange *exchange, struct relay *relay, uint64_t sent, uint64_t received, double now);

/* Frees the exchange without making a record. */
void exchange_drop(struct exchange *exchange);

#endif
